#include "softgpu/engine.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <mutex>
#include <set>
#include <unordered_map>

#include "softgpu/exec/builder.hpp"
#include "softgpu/exec/groups.hpp"
#include "softgpu/exec/kernel.hpp"
#include "softgpu/exec/natives.hpp"
#include "softgpu/ptx/names.hpp"
#include "softgpu/ptx/parser.hpp"

namespace softgpu {

namespace {

constexpr std::uint32_t deep_stack_bytes = 128 * 1024;  ///< local memory a lane where recursion is possible
constexpr std::uint32_t call_charge = 32;               ///< what machine.cpp takes a call level at most

using ptx::Space;

std::uint64_t round_up(std::uint64_t v, std::uint64_t align) {
  return (v + align - 1) / align * align;
}

template <class F>
void each_name(const ptx::Operand& o, F f) {
  if (const auto* n = std::get_if<ptx::NameOperand>(&o.value)) f(n->name);
  if (const auto* a = std::get_if<ptx::AddressOperand>(&o.value)) {
    if (const auto* n = std::get_if<std::string_view>(&a->base)) f(*n);
  }
  if (const auto* v = std::get_if<ptx::VectorOperand>(&o.value)) {
    for (const auto& e : v->elements) each_name(e, f);
  }
}

// Every instruction name of PTX ISA 9.0. An instruction of another name is an error of the text; one of these
// that the engine does not execute is found when its kernel is decoded.
bool is_ptx_name(std::string_view name) {
  static const std::set<std::string_view> names = {
      "abs",          "activemask",    "add",       "addc",       "alloca",
      "and",          "applypriority", "atom",      "bar",        "barrier",
      "bfe",          "bfi",           "bfind",     "bmsk",       "bra",
      "brev",         "brkpt",         "brx",       "call",       "clusterlaunchcontrol",
      "clz",          "cnot",          "copysign",  "cos",        "cp",
      "createpolicy", "cvt",           "cvta",      "discard",    "div",
      "dp2a",         "dp4a",          "elect",     "ex2",        "exit",
      "fence",        "fma",           "fns",       "getctarank", "griddepcontrol",
      "isspacep",     "istypep",       "ld",        "ldmatrix",   "ldu",
      "lg2",          "lop3",          "mad",       "mad24",      "madc",
      "mapa",         "match",         "max",       "mbarrier",   "membar",
      "min",          "mma",           "mov",       "movmatrix",  "mul",
      "mul24",        "multimem",      "nanosleep", "neg",        "not",
      "or",           "pmevent",       "popc",      "prefetch",   "prefetchu",
      "prmt",         "rcp",           "red",       "redux",      "rem",
      "ret",          "rsqrt",         "sad",       "selp",       "set",
      "setmaxnreg",   "setp",          "shf",       "shfl",       "shl",
      "shr",          "sin",           "slct",      "sqrt",       "st",
      "stackrestore", "stacksave",     "stmatrix",  "sub",        "subc",
      "suld",         "suq",           "sured",     "sust",       "szext",
      "tanh",         "tcgen05",       "tensormap", "testp",      "tex",
      "tld4",         "trap",          "txq",       "vabsdiff",   "vabsdiff2",
      "vabsdiff4",    "vadd",          "vadd2",     "vadd4",      "vavrg2",
      "vavrg4",       "vmad",          "vmax",      "vmax2",      "vmax4",
      "vmin",         "vmin2",         "vmin4",     "vote",       "vset",
      "vset2",        "vset4",         "vshl",      "vshr",       "vsub",
      "vsub2",        "vsub4",         "wgmma",     "wmma",       "xor",
      "pragma",       "loc",           "file"};
  return names.contains(name);
}

// The architecture in a target's name, "sm_75" or "compute_90a"; 0 in any other name.
std::uint32_t target_number(std::string_view target) {
  const std::size_t digits = target.find('_');
  std::uint32_t number = 0;
  if (digits != std::string_view::npos)
    std::from_chars(target.data() + digits + 1, target.data() + target.size(), number);
  return number;
}

// What a compiler for this GPU refuses without looking at any instruction.
tl::expected<void, LoadError> check_header(const ptx::Module& ast) {
  const auto version = ast.version_major * 10 + ast.version_minor;
  if (version > newest_ptx_version) {
    return tl::unexpected(LoadError{LoadError::Kind::newer_version, 1,
                                    "Unsupported .version " + std::to_string(ast.version_major) + "." +
                                        std::to_string(ast.version_minor) + "; current version is '" +
                                        std::to_string(newest_ptx_version / 10) + "." +
                                        std::to_string(newest_ptx_version % 10) + "'"});
  }
  if (target_number(ast.target) > newest_ptx_target) {
    return tl::unexpected(LoadError{LoadError::Kind::invalid_ptx, 1,
                                    "SM version specified by .target (" + std::string(ast.target) +
                                        ") is higher than sm_" + std::to_string(newest_ptx_target)});
  }
  if (ast.address_size != 64)
    return tl::unexpected(LoadError{LoadError::Kind::unsupported, 1, "only 64-bit addresses are supported"});
  return {};
}

// The name that a call calls; empty where it goes through a register.
std::string_view called(const ptx::Instruction& call) {
  for (const auto& operand : call.operands) {
    if (const auto* const name = std::get_if<ptx::NameOperand>(&operand.value)) return name->name;
  }
  return {};
}

class ModuleImpl;

}  // namespace

class Kernel {
 public:
  ModuleImpl* module = nullptr;
  const ptx::Function* function = nullptr;
  std::uint32_t index = 0;
  KernelAttributes attributes;
  std::vector<ParamInfo> params;
  std::unordered_map<const ptx::Variable*, std::uint32_t> shared;  ///< offsets
  std::mutex mutex;
  bool decoded = false;
  LoadError error{};
  bool failed = false;
  exec::KernelCode code;
};

namespace {

class ModuleImpl final : public Module {
 public:
  explicit ModuleImpl(DeviceAllocator& memory) : memory_(memory), heap_(memory) {}
  ~ModuleImpl() override {
    if (storage_ != 0) memory_.release(storage_);
  }

  tl::expected<void, LoadError> build(std::unique_ptr<ptx::Module> ast, const Module* original);
  const Kernel* find_kernel(std::string_view name) const override {
    for (const auto& k : kernels_)
      if (k->function->name == name) return k.get();
    return nullptr;
  }
  std::vector<const Kernel*> kernels() const override {
    std::vector<const Kernel*> all;
    for (const auto& k : kernels_) all.push_back(k.get());
    return all;
  }
  const GlobalVariable* find_variable(std::string_view name) const override {
    const auto it = variables_.find(name);
    return it == variables_.end() ? nullptr : &it->second;
  }

  const ptx::Module& ast() const { return *ast_; }
  exec::DeviceHeap& heap() { return heap_; }
  bool function_index(std::string_view name, std::uint32_t& index) const {
    const auto it = functions_.find(name);
    if (it == functions_.end()) return false;
    index = it->second;
    return true;
  }
  const ptx::Variable* shared_variable(std::string_view name) const {
    const auto it = shared_.find(name);
    return it == shared_.end() ? nullptr : it->second;
  }
  const std::set<std::uint32_t>& address_taken() const { return address_taken_; }
  void decode(Kernel& k);

 private:
  tl::expected<void, LoadError> check_calls() const;
  tl::expected<void, LoadError> place_variables(const Module* original);
  void describe(Kernel& k);

  DeviceAllocator& memory_;
  exec::DeviceHeap heap_;
  std::unique_ptr<ptx::Module> ast_;
  std::unordered_map<std::string_view, std::uint32_t> functions_;
  std::unordered_map<std::string_view, const ptx::Variable*> shared_;
  std::unordered_map<std::string_view, GlobalVariable> variables_;
  std::set<std::uint32_t> address_taken_;  ///< functions named in initializers
  std::vector<std::unique_ptr<Kernel>> kernels_;
  std::uint64_t storage_ = 0;
};

// Names as one kernel's functions see them.
class KernelNames final : public exec::Names {
 public:
  KernelNames(const ModuleImpl& module, const Kernel& kernel) : module_(module), kernel_(kernel) {}
  exec::Symbol global(std::string_view name) const override {
    exec::Symbol s;
    if (const GlobalVariable* v = module_.find_variable(name)) {
      s.kind = exec::Symbol::Kind::address;
      s.value = v->address;
      s.space = v->is_constant ? Space::constant : Space::global;
    } else if (const ptx::Variable* sv = module_.shared_variable(name)) {
      s.kind = exec::Symbol::Kind::address;
      s.value = shared_offset(*sv);
      s.space = Space::shared;
    } else if (std::uint32_t index = 0; module_.function_index(name, index)) {
      s.kind = exec::Symbol::Kind::function;
      s.value = index;
      s.bytes = module_.ast().functions[index].has_body ? 1 : 0;
    }
    return s;
  }
  std::uint64_t shared_offset(const ptx::Variable& variable) const override {
    const auto it = kernel_.shared.find(&variable);
    return it == kernel_.shared.end() ? kernel_.attributes.static_shared_bytes : it->second;
  }

 private:
  const ModuleImpl& module_;
  const Kernel& kernel_;
};

tl::expected<void, LoadError> ModuleImpl::place_variables(const Module* original) {
  std::uint64_t size = 0;
  std::vector<std::pair<const ptx::Variable*, std::uint64_t>> places;
  for (const auto& v : ast_->variables) {
    if (v.space == Space::shared) {
      shared_.emplace(v.name, &v);
      continue;
    }
    if (v.space != Space::global && v.space != Space::constant) continue;
    if (v.is_extern) continue;
    if (v.type == ptx::Type::texref || v.type == ptx::Type::samplerref || v.type == ptx::Type::surfref)
      return tl::unexpected(LoadError{LoadError::Kind::unsupported, v.line,
                                      "texture and surface references are not supported"});
    if (v.managed && original != nullptr) {
      if (const GlobalVariable* const one = original->find_variable(v.name)) {
        variables_.emplace(v.name, *one);
        continue;
      }
    }
    const auto earlier =
        std::find_if(places.begin(), places.end(), [&](const auto& p) { return p.first->name == v.name; });
    if (earlier != places.end()) {
      const bool may_repeat = v.weak || v.common || earlier->first->weak || earlier->first->common;
      if (!may_repeat)
        return tl::unexpected(LoadError{LoadError::Kind::invalid_ptx, v.line,
                                        "variable '" + std::string(v.name) + "' is defined twice"});
      continue;
    }
    size = round_up(size, std::max<std::uint64_t>(v.alignment(), 1));
    places.emplace_back(&v, size);
    size += v.size();
  }
  for (const auto& v : ast_->variables) {
    if (!v.is_extern || v.space == Space::shared) continue;
    const bool defined =
        variables_.contains(v.name) ||
        std::any_of(places.begin(), places.end(), [&](const auto& p) { return p.first->name == v.name; });
    if (!defined)
      return tl::unexpected(LoadError{LoadError::Kind::unresolved_symbol, v.line,
                                      "variable '" + std::string(v.name) + "' is not defined"});
  }
  if (size == 0) return {};
  storage_ = memory_.allocate(size, 256);
  if (storage_ == 0)
    return tl::unexpected(
        LoadError{LoadError::Kind::out_of_memory, 0, "no device memory for the module's variables"});
  for (auto [v, offset] : places) {
    variables_.emplace(v->name, GlobalVariable{std::string(v->name), storage_ + offset, v->size(),
                                               v->space == Space::constant});
  }
  for (auto [v, offset] : places) {
    const std::uint32_t element = ptx::size_of(v->type);
    auto* at = reinterpret_cast<std::byte*>(storage_ + offset);
    const std::uint64_t room = v->size();
    for (std::size_t k = 0; k < v->initializer.size() && (k + 1) * element <= room; ++k) {
      const ptx::Initializer& init = v->initializer[k];
      std::uint64_t bits = init.bits;
      if (init.symbol) {
        std::uint32_t index = 0;
        std::uint64_t address = 0;
        if (const GlobalVariable* g = find_variable(init.symbol->name)) {
          address = g->address;
        } else if (function_index(init.symbol->name, index)) {
          address = exec::function_pointer_base + 16 * std::uint64_t{index};
          address_taken_.insert(index);
        } else {
          return tl::unexpected(
              LoadError{LoadError::Kind::unresolved_symbol, v->line,
                        "initializer names unknown '" + std::string(init.symbol->name) + "'"});
        }
        bits += address + static_cast<std::uint64_t>(init.symbol->offset);
        if (init.has_mask) bits = bits >> (init.mask_shift & 63) & 0xff;
      }
      std::memcpy(at + k * element, &bits, std::min<std::uint32_t>(element, 8));
    }
  }
  return {};
}

// Attributes that need no decoding: parameters, and the shared memory of everything the kernel can reach.
void ModuleImpl::describe(Kernel& k) {
  const ptx::Function& f = *k.function;
  std::uint32_t offset = 0;
  for (const auto& p : f.params) {
    offset = static_cast<std::uint32_t>(round_up(offset, p.alignment()));
    k.params.push_back({offset, static_cast<std::uint32_t>(p.size())});
    offset += static_cast<std::uint32_t>(p.size());
  }
  std::set<std::uint32_t> seen{k.index};
  std::vector<std::uint32_t> todo{k.index};
  std::vector<const ptx::Variable*> dynamic;
  std::uint32_t shared = 0;
  auto reach = [&](std::uint32_t index) {
    if (seen.insert(index).second) todo.push_back(index);
  };
  auto add = [&](const ptx::Variable& v) {
    if (k.shared.contains(&v)) return;
    if (v.size() == 0) {
      dynamic.push_back(&v);
      return;
    }
    shared = static_cast<std::uint32_t>(round_up(shared, v.alignment()));
    k.shared[&v] = shared;
    shared += static_cast<std::uint32_t>(v.size());
  };
  while (!todo.empty()) {
    const ptx::Function& g = ast_->functions[todo.back()];
    todo.pop_back();
    for (const auto& s : g.scopes)
      for (const auto& v : s.variables)
        if (v.space == Space::shared) add(v);
    for (const auto& i : g.instructions) {
      if (i.parts[0] == "call") {
        bool named = false;
        for (const auto& o : i.operands) {
          each_name(o, [&](std::string_view n) {
            if (std::uint32_t index = 0; function_index(n, index)) named = true, reach(index);
          });
        }
        if (!named)
          for (auto index : address_taken_) reach(index);
        continue;
      }
      for (const auto& o : i.operands) {
        each_name(o, [&](std::string_view n) {
          if (n.empty() || n[0] == '%') return;
          if (const ptx::Variable* v = shared_variable(n)) add(*v);
          if (std::uint32_t index = 0; function_index(n, index)) reach(index);
        });
      }
    }
  }
  if (!dynamic.empty()) {
    std::uint32_t align = 16;
    for (const auto* v : dynamic) align = std::max(align, v->alignment());
    shared = static_cast<std::uint32_t>(round_up(shared, align));
    for (const auto* v : dynamic) k.shared[v] = shared;
  }
  KernelAttributes& a = k.attributes;
  a.static_shared_bytes = shared;
  std::uint64_t registers = 0;
  for (const auto& s : f.scopes) {
    for (const auto& v : s.variables)
      if (v.space == Space::local) a.local_bytes += static_cast<std::uint32_t>(v.size());
    for (const auto& r : s.registers)
      registers += std::uint64_t{r.count} * std::max<std::uint32_t>(ptx::size_of(r.type), 4) / 4;
  }
  // A block of 1024 threads always fits, so no kernel reports more than 65536 / 1024.
  a.registers =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(std::max<std::uint64_t>(registers, 1), 64));
  for (const auto& [name, v] : variables_)
    if (v.is_constant) a.const_bytes += static_cast<std::uint32_t>(v.size);
  a.ptx_version = ast_->version_major * 10 + ast_->version_minor;
  for (int d = 0; d < 3; ++d) a.required_block[d] = f.reqntid[d];
  const auto* limit = f.reqntid[0] != 0 ? f.reqntid : f.maxntid;
  if (limit[0] != 0) {
    const std::uint64_t threads = std::uint64_t{limit[0]} * std::max(limit[1], 1U) * std::max(limit[2], 1U);
    a.max_threads_per_block = static_cast<std::uint32_t>(std::min<std::uint64_t>(threads, 1024));
  }
}

// A function that is called must have a body in this text, or be one of those that the engine provides.
tl::expected<void, LoadError> ModuleImpl::check_calls() const {
  for (const auto& f : ast_->functions) {
    for (const auto& i : f.instructions) {
      if (i.parts[0] != "call") continue;
      const std::string_view name = called(i);
      std::uint32_t index = 0;
      if (!function_index(name, index) || ast_->functions[index].has_body) continue;
      if (exec::native_function(name) != nullptr) continue;
      return tl::unexpected(
          LoadError{LoadError::Kind::unresolved_symbol, i.line,
                    "Undefined reference to '" + std::string(name) + "' in '" + std::string(f.name) + "'"});
    }
  }
  return {};
}

tl::expected<void, LoadError> ModuleImpl::build(std::unique_ptr<ptx::Module> ast, const Module* original) {
  ast_ = std::move(ast);
  if (auto ok = check_header(*ast_); !ok) return ok;
  for (std::uint32_t i = 0; i < ast_->functions.size(); ++i) {
    const auto& f = ast_->functions[i];
    for (const auto& instruction : f.instructions) {
      if (!is_ptx_name(instruction.parts[0]))
        return tl::unexpected(LoadError{LoadError::Kind::invalid_ptx, instruction.line,
                                        "unknown instruction '" + std::string(instruction.mnemonic) + "'"});
    }
    auto [it, fresh] = functions_.try_emplace(f.name, i);
    if (fresh || !f.has_body) continue;
    const auto& earlier = ast_->functions[it->second];
    if (earlier.has_body && !earlier.weak && !f.weak)
      return tl::unexpected(LoadError{LoadError::Kind::invalid_ptx, f.line,
                                      "function '" + std::string(f.name) + "' is defined twice"});
    it->second = i;
  }
  if (auto error = ptx::undeclared_name(*ast_))
    return tl::unexpected(LoadError{LoadError::Kind::invalid_ptx, error->line, std::move(error->reason)});
  if (auto ok = check_calls(); !ok) return ok;
  if (auto ok = place_variables(original); !ok) return ok;
  for (const auto& [name, i] : functions_) {
    if (!ast_->functions[i].is_entry || !ast_->functions[i].has_body) continue;
    auto k = std::make_unique<Kernel>();
    k->module = this;
    k->function = &ast_->functions[i];
    k->index = i;
    describe(*k);
    kernels_.push_back(std::move(k));
  }
  std::sort(kernels_.begin(), kernels_.end(),
            [](const auto& x, const auto& y) { return x->index < y->index; });
  return {};
}

// The most local memory a call chain from `f` takes; nothing where it cannot be known.
std::optional<std::uint32_t> stack_need(const exec::FunctionCode& f,
                                        std::set<const exec::FunctionCode*>& path,
                                        std::unordered_map<const exec::FunctionCode*, std::uint32_t>& known) {
  if (auto it = known.find(&f); it != known.end()) return it->second;
  if (f.dynamic_stack || !path.insert(&f).second) return std::nullopt;
  std::uint32_t most = 0;
  for (const auto* g : f.callees) {
    const auto need = stack_need(*g, path, known);
    if (!need) return std::nullopt;
    most = std::max(most, *need + call_charge);
  }
  path.erase(&f);
  return known[&f] = f.local_bytes + most;
}

void ModuleImpl::decode(Kernel& k) {
  const KernelNames names(*this, k);
  const unsigned isa = exec::isa_level();
  exec::KernelCode& code = k.code;
  std::vector<std::uint32_t> todo{k.index};
  std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> calls;
  bool indirect = false;
  auto want = [&](std::uint32_t index) {
    if (code.by_index.contains(index) || !ast_->functions[index].has_body) return;
    code.functions.push_back(std::make_unique<exec::FunctionCode>());
    code.functions.back()->index = index;
    code.functions.back()->name = ast_->functions[index].name;
    code.by_index[index] = code.functions.back().get();
    todo.push_back(index);
  };
  todo.clear();
  want(k.index);
  while (!todo.empty()) {
    const std::uint32_t index = todo.back();
    todo.pop_back();
    exec::FunctionCode& f = *code.by_index[index];
    exec::Builder b(ast_->functions[index], names, isa);
    if (!b.decode_body()) {
      f.failed = true;
      f.error = {LoadError::Kind::unsupported, b.error_line, b.reason};
      continue;
    }
    exec::lower(b, f);
    calls[index] = b.callees;
    for (auto c : b.callees) want(c);
    const bool has_indirect = std::any_of(f.ops.begin(), f.ops.end(),
                                          [](const exec::Op& op) { return op.fn == exec::op_call_indirect; });
    if (has_indirect && !indirect) {
      indirect = true;
      for (auto c : address_taken_) want(c);
    }
  }
  for (auto& f : code.functions) {
    for (auto& op : f->ops) {
      if (op.fn != exec::op_call) continue;
      const exec::FunctionCode* callee = code.by_index.at(static_cast<std::uint32_t>(op.imm));
      op.imm = reinterpret_cast<std::uint64_t>(callee);
      f->callees.push_back(callee);
      if (callee->failed && !f->failed) {
        k.failed = true;
        k.error = callee->error;
      }
    }
  }
  code.entry = code.by_index[k.index];
  if (code.entry->failed) {
    k.failed = true;
    k.error = code.entry->error;
  }
  code.static_shared = k.attributes.static_shared_bytes;
  if (!k.failed) {
    std::set<const exec::FunctionCode*> path;
    std::unordered_map<const exec::FunctionCode*, std::uint32_t> known;
    const auto need = stack_need(*code.entry, path, known);
    code.stack_bytes = need ? *need : std::max(deep_stack_bytes, code.entry->local_bytes + deep_stack_bytes);
    code.stack_bytes = (code.stack_bytes + 63) / 64 * 64;
  }
}

}  // namespace

tl::expected<std::unique_ptr<Module>, LoadError> Module::load(std::string_view ptx, DeviceAllocator& memory,
                                                              const Module* original) {
  auto ast = ptx::parse(ptx);
  if (!ast)
    return tl::unexpected(LoadError{LoadError::Kind::invalid_ptx, ast.error().line, ast.error().reason});
  auto module = std::make_unique<ModuleImpl>(memory);
  if (auto ok = module->build(std::move(*ast), original); !ok) return tl::unexpected(ok.error());
  return module;
}

std::string_view kernel_name(const Kernel& kernel) {
  return kernel.function->name;
}
const KernelAttributes& kernel_attributes(const Kernel& kernel) {
  return kernel.attributes;
}
std::span<const ParamInfo> kernel_params(const Kernel& kernel) {
  return kernel.params;
}

tl::expected<void, LoadError> prepare(const Kernel& kernel) {
  const auto code = exec::kernel_code(kernel);
  if (!code) return tl::unexpected(code.error());
  return {};
}

namespace exec {

tl::expected<const KernelCode*, LoadError> kernel_code(const Kernel& kernel) {
  auto& k = const_cast<Kernel&>(kernel);  // decoding is the kernel's own late initialisation
  const std::lock_guard lock(k.mutex);
  if (!k.decoded) {
    k.module->decode(k);
    k.decoded = true;
  }
  if (k.failed) return tl::unexpected(k.error);
  return &k.code;
}

DeviceHeap& kernel_heap(const Kernel& kernel) {
  return kernel.module->heap();
}

}  // namespace exec

}  // namespace softgpu

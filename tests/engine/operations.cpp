// llama.cpp's test-backend-ops, case by case. Its source is compiled into this program as it is; only its
// main() is replaced, so that one process can be told which cases to run and says at once what became of each
// (its own command line takes names only, and a process a few hundred cases costs more than the cases). Built
// by setup.sh.
//
//   operations list      a line a case: index, 1 if both backends support it, 1 if no tensor of it is empty
//                        (there is something to compute), operation, parameters; tabs between
//   operations run       reads indices from standard input; answers each by "= INDEX VERDICT MILLISECONDS",
//                        VERDICT being OK, FAIL or UNSUPPORTED. Lines before it tell why a case failed.
//   operations test ...  test-backend-ops with its own arguments
//
// A case builds its graph, computes it on CUDA0 and on the CPU backend's reference implementation, and
// compares.
#define main test_backend_ops_main
#include "test-backend-ops.cpp"  // NOLINT(bugprone-suspicious-include): as it is
#undef main

namespace {

/// The two sides of every comparison.
struct Backends {
  ggml_backend_ptr device, cpu;

  static Backends open() {
    ggml_backend_load_all();
    ggml_backend_dev_t found = ggml_backend_dev_by_name("CUDA0");
    if (found == nullptr) {
      std::fprintf(stderr, "operations: the engine sees no CUDA device\n");
      std::exit(3);
    }
    Backends result{ggml_backend_ptr(ggml_backend_dev_init(found, nullptr)),
                    ggml_backend_ptr(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr))};
    GGML_ASSERT(result.device != nullptr && result.cpu != nullptr);
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(result.cpu.get()));
    // Threads of the CPU backend spin for each other: with as many as CPUs they would take them from the
    // device's.
    reinterpret_cast<ggml_backend_set_n_threads_t>(
        ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"))(result.cpu.get(), 1);
    using UseReference = void (*)(ggml_backend_t, bool);
    reinterpret_cast<UseReference>(ggml_backend_reg_get_proc_address(reg, "ggml_backend_cpu_set_use_ref"))(
        result.cpu.get(), true);
    return result;
  }
};

void list(const Backends& backends, std::vector<std::unique_ptr<test_case>>& cases) {
  for (std::size_t i = 0; i < cases.size(); ++i) {
    test_case& one = *cases[i];
    const ggml_init_params parameters{ggml_tensor_overhead() * 256 + ggml_graph_overhead(), nullptr, true};
    const ggml_context_ptr context(ggml_init(parameters));
    const ggml_context_ptr weights(one.use_weight_context() ? ggml_init(parameters) : nullptr);
    one.mode = MODE_TEST;
    one.gf = ggml_new_graph(context.get());
    ggml_tensor* out = one.build_graph(context.get(), weights.get());
    bool supported = true, full = true;
    for (ggml_backend_t backend : {backends.device.get(), backends.cpu.get()}) {
      for (ggml_tensor* t = ggml_get_first_tensor(context.get()); t != nullptr;
           t = ggml_get_next_tensor(context.get(), t)) {
        supported = supported && ggml_backend_supports_op(backend, t);
        full = full && ggml_nelements(t) != 0;
      }
    }
    std::printf("%zu\t%d\t%d\t%s\t%s\n", i, supported ? 1 : 0, full ? 1 : 0, one.op_desc(out).c_str(),
                one.vars().c_str());
  }
}

void run(const Backends& backends, std::vector<std::unique_ptr<test_case>>& cases) {
  std::size_t index = 0;
  while (std::scanf("%zu", &index) == 1) {
    if (index >= cases.size()) {
      std::fprintf(stderr, "operations: there are %zu cases\n", cases.size());
      std::exit(2);
    }
    const auto start = std::chrono::steady_clock::now();
    const test_status_t status =
        cases[index]->eval(backends.device.get(), backends.cpu.get(), nullptr, nullptr);
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    const char* verdict = status == test_status_t::OK     ? "OK"
                          : status == test_status_t::FAIL ? "FAIL"
                                                          : "UNSUPPORTED";
    std::printf("\n= %zu %s %.1f\n", index, verdict, elapsed.count());
    std::fflush(stdout);
    cases[index].reset();
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode != "list" && mode != "run") return test_backend_ops_main(argc, argv);
  const Backends backends = Backends::open();
  std::vector<std::unique_ptr<test_case>> cases = make_test_cases_eval();
  if (mode == "list") {
    list(backends, cases);
  } else {
    run(backends, cases);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "operations: %s\n", error.what());
  return 4;
}

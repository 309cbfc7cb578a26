// Runs a GGUF model greedily through llama.h and prints what came out, so that two runs can be compared: on
// the CPU backend and on a GPU, alone and beside others. It never samples: the same model and options give
// the same tokens. Built by setup.sh against the prebuilt engine, not by this project's CMake.
//
// Output on stdout, one "key value..." line each: device, prompt (token ids), tokens (token ids generated),
// margin (smallest lead of the chosen logit over the next), hash (FNV-1a over all logits' bytes), prompt_ms,
// decode_ms, load_ms. With --logits FILE, the logits of every step follow as raw float32.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"

namespace {

struct Options {
  std::string model;
  std::string text;  // the prompt; if empty, prompt_length tokens of a fixed pseudo-random sequence
  std::string logits_file;
  int prompt_length = 42;
  int tokens = 16;
  int gpu_layers = 99;  // 0: everything on the CPU backend, and no GPU is even asked
  int context = 0;      // 0: what prompt and tokens need
  int batch = 512;
  int threads = 2;
  bool flash = false;
  bool verbose = false;
};

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

[[noreturn]] void usage(const char* why) {
  std::fprintf(
      stderr,
      "vgpud-generate: %s\n"
      "usage: vgpud-generate --model FILE [--text TEXT | --prompt-length N] [--tokens N] [--gpu-layers N]\n"
      "       [--flash 0|1] [--context N] [--batch N] [--threads N] [--logits FILE] [--verbose 1]\n",
      why);
  std::exit(2);
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 >= argc) usage((name + " needs a value").c_str());
    const char* value = argv[i + 1];
    if (name == "--model")
      options.model = value;
    else if (name == "--text")
      options.text = value;
    else if (name == "--logits")
      options.logits_file = value;
    else if (name == "--prompt-length")
      options.prompt_length = std::atoi(value);
    else if (name == "--tokens")
      options.tokens = std::atoi(value);
    else if (name == "--gpu-layers")
      options.gpu_layers = std::atoi(value);
    else if (name == "--context")
      options.context = std::atoi(value);
    else if (name == "--batch")
      options.batch = std::atoi(value);
    else if (name == "--threads")
      options.threads = std::atoi(value);
    else if (name == "--flash")
      options.flash = std::atoi(value) != 0;
    else if (name == "--verbose")
      options.verbose = std::atoi(value) != 0;
    else
      usage(("unknown option " + name).c_str());
  }
  if (options.model.empty()) usage("--model is missing");
  if (options.prompt_length < 1 || options.tokens < 1) usage("lengths are at least 1");
  return options;
}

std::vector<llama_token> make_prompt(const Options& options, const llama_vocab* vocab) {
  const int size = llama_vocab_n_tokens(vocab);
  std::vector<llama_token> prompt;
  if (!options.text.empty()) {
    prompt.resize(options.text.size() + 8);
    const int count = llama_tokenize(vocab, options.text.data(), static_cast<int>(options.text.size()),
                                     prompt.data(), static_cast<int>(prompt.size()), true, false);
    if (count < 1) usage("the text does not tokenize");
    prompt.resize(static_cast<std::size_t>(count));
    return prompt;
  }
  std::uint32_t state = 12345;
  prompt.push_back(llama_vocab_bos(vocab));
  while (static_cast<int>(prompt.size()) < options.prompt_length) {
    state = state * 1664525u + 1013904223u;
    prompt.push_back(static_cast<llama_token>((state >> 8) % static_cast<std::uint32_t>(size)));
  }
  return prompt;
}

void print_tokens(const char* key, const std::vector<llama_token>& tokens) {
  std::printf("%s", key);
  for (const llama_token token : tokens) std::printf(" %d", token);
  std::printf("\n");
}

// Decodes `tokens` in batches; false with a message when the engine refuses.
bool decode(llama_context* context, std::vector<llama_token>& tokens, int batch) {
  for (std::size_t from = 0; from < tokens.size(); from += static_cast<std::size_t>(batch)) {
    const auto count = std::min(tokens.size() - from, static_cast<std::size_t>(batch));
    const int result =
        llama_decode(context, llama_batch_get_one(tokens.data() + from, static_cast<int>(count)));
    if (result != 0) {
      std::fprintf(stderr, "vgpud-generate: llama_decode returned %d\n", result);
      return false;
    }
  }
  return true;
}

// What the logits of all steps amount to.
struct Tally {
  std::uint64_t hash = 14695981039346656037u;
  float margin = 1e30f;
  FILE* file = nullptr;

  llama_token take(const float* logits, int size) {
    if (file) std::fwrite(logits, sizeof(float), static_cast<std::size_t>(size), file);
    const auto* bytes = reinterpret_cast<const unsigned char*>(logits);
    for (std::size_t i = 0; i < sizeof(float) * static_cast<std::size_t>(size); ++i) {
      hash = (hash ^ bytes[i]) * 1099511628211u;
    }
    const auto best = std::max_element(logits, logits + size) - logits;
    float second = -1e30f;
    for (int i = 0; i < size; ++i) {
      if (i != best) second = std::max(second, logits[i]);
    }
    margin = std::min(margin, logits[best] - second);
    return static_cast<llama_token>(best);
  }
};

void quiet(ggml_log_level level, const char* text, void* verbose) {
  if (*static_cast<bool*>(verbose) || level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

}  // namespace

int main(int argc, char** argv) {
  Options options = parse(argc, argv);
  llama_log_set(quiet, &options.verbose);
  const auto start = Clock::now();
  if (options.gpu_layers > 0) {
    ggml_backend_load_all();
  } else {
    // The folder cpu/ beside bin/ holds the CPU backends alone, so the CUDA backend is not even loaded.
    const auto program = std::filesystem::read_symlink("/proc/self/exe");
    ggml_backend_load_all_from_path((program.parent_path().parent_path() / "cpu").c_str());
  }

  ggml_backend_dev_t gpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU);
  if (options.gpu_layers > 0 && gpu == nullptr) {
    std::fprintf(stderr, "vgpud-generate: the engine sees no GPU\n");
    return 3;
  }
  std::printf("device %s\n", gpu ? ggml_backend_dev_description(gpu) : "CPU");

  llama_model_params model_parameters = llama_model_default_params();
  model_parameters.n_gpu_layers = options.gpu_layers;
  model_parameters.use_extra_bufts =
      false;  // no repacked weights: the CPU's results stay those of the file's format
  const std::unique_ptr<llama_model, decltype(&llama_model_free)> model(
      llama_model_load_from_file(options.model.c_str(), model_parameters), llama_model_free);
  if (!model) return 4;

  const llama_vocab* vocab = llama_model_get_vocab(model.get());
  std::vector<llama_token> prompt = make_prompt(options, vocab);
  llama_context_params parameters = llama_context_default_params();
  const int needed = static_cast<int>(prompt.size()) + options.tokens;
  parameters.n_ctx =
      static_cast<std::uint32_t>(options.context > 0 ? options.context : (needed + 255) / 256 * 256);
  parameters.n_batch = static_cast<std::uint32_t>(options.batch);
  parameters.n_ubatch = static_cast<std::uint32_t>(options.batch);
  parameters.n_threads = options.threads;
  parameters.n_threads_batch = options.threads;
  parameters.flash_attn_type = options.flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  const std::unique_ptr<llama_context, decltype(&llama_free)> context(
      llama_init_from_model(model.get(), parameters), llama_free);
  if (!context) return 4;
  const auto loaded = Clock::now();

  Tally tally;
  const auto close = [](FILE* file) { return file ? std::fclose(file) : 0; };
  const std::unique_ptr<FILE, decltype(close)> file(
      options.logits_file.empty() ? nullptr : std::fopen(options.logits_file.c_str(), "wb"), close);
  tally.file = file.get();

  const int size = llama_vocab_n_tokens(vocab);
  std::vector<llama_token> generated;
  if (!decode(context.get(), prompt, options.batch)) return 5;
  generated.push_back(tally.take(llama_get_logits_ith(context.get(), -1), size));
  const auto prompted = Clock::now();
  while (static_cast<int>(generated.size()) < options.tokens) {
    std::vector<llama_token> next{generated.back()};
    if (!decode(context.get(), next, options.batch)) return 5;
    generated.push_back(tally.take(llama_get_logits_ith(context.get(), -1), size));
  }
  const auto done = Clock::now();

  print_tokens("prompt", prompt);
  print_tokens("tokens", generated);
  std::printf("margin %.6f\nhash %016llx\nload_ms %.1f\nprompt_ms %.1f\ndecode_ms %.1f\n", tally.margin,
              static_cast<unsigned long long>(tally.hash), milliseconds(start, loaded),
              milliseconds(loaded, prompted), milliseconds(prompted, done));
  return 0;
}

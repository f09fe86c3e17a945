// Lets the shipped ONNX parser read a graph into a recorded network, and prints what it made as
// JSON. No GPU is needed: TensorRT's builder is never asked.
//
//   covis_trt_record MODEL WEIGHTS_BESIDE PLUGIN [INPUT=4x3x518x518 ...] [@INITIALIZERS]
//
// INITIALIZERS is a file of lines "name offset length path", apart by tabs: those tensors are handed
// to the parser as pointers into the files' bytes, as `covis build` does (TensorRT 10.13 and newer).
//
// MODEL is what is parsed, WEIGHTS_BESIDE the path of the graph whose folder holds the external
// weights. Sizes given for inputs replace open ones, for everything that follows from them.
#include <NvOnnxParser.h>
#include <dlfcn.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>

#include "network.h"

namespace {

using namespace covis::test;

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity <= Severity::kWARNING) lines.emplace_back(text);
  }
  std::vector<std::string> lines;
};

std::string quoted(const std::string& text) {
  std::string line = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') line += '\\';
    line += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return line + '"';
}

template <typename Items, typename Write>
std::string list(const Items& items, Write write) {
  std::string text = "[";
  for (const auto& item : items) text += (text.size() > 1 ? ", " : "") + write(item);
  return text + "]";
}

std::string json(const Dims& dims) {
  return list(std::vector<int64_t>(dims.d, dims.d + dims.nbDims),
              [](int64_t size) { return std::to_string(size); });
}

std::string json(const Tensor& tensor) {
  return "{\"id\": " + std::to_string(tensor.id) + ", \"name\": " + quoted(tensor.name) +
         ", \"type\": " + quoted(type_name(tensor.getType())) + ", \"dims\": " +
         json(tensor.getDimensions()) + "}";
}

std::string json(Node& node) {
  return "{\"kind\": " + std::to_string(static_cast<int>(node.kind)) + ", \"name\": " +
         quoted(node.name) + ", \"inputs\": " + list(node.inputs, [](const auto* input) {
           return std::to_string(input == nullptr ? -1 : static_cast<const Tensor*>(input)->id);
         }) + ", \"outputs\": " + list(node.outputs, [](const auto& made) { return json(*made); }) +
         "}";
}

// Whether the plugin offers a format for these types, as a strongly typed build will ask.
bool has_format(const Node& node, nvinfer1::IPluginV3& plugin) {
  using namespace nvinfer1;
  std::vector<DynamicPluginTensorDesc> tensors;
  const auto push = [&](const Tensor& tensor) {
    const Dims dims = tensor.getDimensions();
    tensors.push_back({{dims, tensor.getType(), TensorFormat::kLINEAR, 0.0f}, dims, dims, dims});
  };
  for (size_t i = 0; i < node.inputs.size(); ++i) push(node.in(i));
  for (const auto& output : node.outputs) push(*output);
  auto& build = *static_cast<IPluginV3OneBuild*>(
      plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
  for (int32_t pos = 0; pos < static_cast<int32_t>(tensors.size()); ++pos) {
    if (!build.supportsFormatCombination(pos, tensors.data(), node.getNbInputs(),
                                         node.getNbOutputs())) {
      return false;
    }
  }
  return true;
}

std::string json(const Node& node, nvinfer1::IPluginV3& plugin) {
  using namespace nvinfer1;
  auto& build = *static_cast<IPluginV3OneBuild*>(
      plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
  const char* const text = build.getMetadataString();
  return "{\"layer\": " + quoted(node.name) + ", \"fields\": " +
         quoted(text == nullptr ? "" : text) + ", \"has_format\": " +
         (has_format(node, plugin) ? "true" : "false") + ", \"types\": " +
         list(node.inputs, [](const auto* input) {
           return quoted(type_name(static_cast<const Tensor*>(input)->getType()));
         }) + "}";
}

std::vector<std::pair<std::string, Dims>> sizes_of(int count, char** arguments) {
  std::vector<std::pair<std::string, Dims>> sizes;
  for (int i = 0; i < count; ++i) {
    const std::string argument = arguments[i];
    const size_t equals = argument.find('=');
    std::istringstream text(argument.substr(equals + 1));
    Dims dims{0, {}};
    for (std::string size; std::getline(text, size, 'x');) dims.d[dims.nbDims++] = std::stoll(size);
    sizes.emplace_back(argument.substr(0, equals), dims);
  }
  return sizes;
}

#if NV_TENSORRT_MAJOR > 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 13)
#define COVIS_LOADS_INITIALIZERS
using Files = std::map<std::string, std::string>;  // a file's bytes by its path

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

bool parse_with(nvonnxparser::IParser& parser, const std::string& model, const char* path,
                const char* initializers, Files& files) {
  if (!parser.loadModelProto(model.data(), model.size(), path)) return false;
  std::ifstream lines(initializers);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name, offset, length, file;
    std::getline(words, name, '\t'), std::getline(words, offset, '\t');
    std::getline(words, length, '\t'), std::getline(words, file, '\t');
    if (files.count(file) == 0) files[file] = bytes_of(file);
    const char* const data = files[file].data() + std::stoull(offset);
    if (!parser.loadInitializer(name.c_str(), data, std::stoull(length))) return false;
  }
  return parser.parseModelProto();
}

// Initializers whose numbers lie in those files' bytes: nothing was copied.
size_t in_place(const Network& network, const Files& files) {
  size_t found = 0;
  for (const void* values : network.weights_named) {
    const auto* const data = static_cast<const char*>(values);
    for (const auto& [path, bytes] : files) {
      found += data >= bytes.data() && data < bytes.data() + bytes.size();
    }
  }
  return found;
}
#endif

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  getPluginRegistry();  // libnvinfer is there before the plugin looks for it
  if (dlopen(argv[3], RTLD_NOW | RTLD_LOCAL) == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  std::ifstream file(argv[1], std::ios::binary);
  const std::string model((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Logger logger;
  Network network(logger);
  const char* const initializers = argv[argc - 1][0] == '@' ? argv[--argc] + 1 : nullptr;
  network.sizes = sizes_of(argc - 4, argv + 4);
  nvonnxparser::IParser* const parser = nvonnxparser::createParser(network, logger);
  bool parsed = false;
  size_t given_in_place = 0;
  if (initializers == nullptr) {
    parsed = parser->parse(model.data(), model.size(), argv[2]);
  } else {
#ifdef COVIS_LOADS_INITIALIZERS
    static Files files;
    parsed = parse_with(*parser, model, argv[2], initializers, files);
    given_in_place = in_place(network, files);
#else
    return 3;
#endif
  }
  std::vector<std::string> errors;
  for (int32_t i = 0; i < parser->getNbErrors(); ++i) {
    const nvonnxparser::IParserError& error = *parser->getError(i);
    errors.push_back(std::string(error.nodeOperator()) + " " + error.nodeName() + ": " +
                     error.desc());
  }
  int next = 0;
  for (const auto& input : network.inputs) input->id = next++;
  for (Node* node : network.nodes) {
    for (const auto& output : node->outputs) output->id = next++;
  }
  const auto text = [](const std::string& line) { return quoted(line); };
  std::printf("{\"parsed\": %s,\n", parsed ? "true" : "false");
  std::printf("\"inputs\": %s,\n",
              list(network.inputs, [](const auto& input) { return json(*input); }).c_str());
  std::printf("\"layers\": %s,\n",
              list(network.nodes, [](Node* node) { return "\n" + json(*node); }).c_str());
  std::printf("\"outputs\": %s,\n",
              list(network.outputs, [](const Tensor* one) { return json(*one); }).c_str());
  std::printf("\"plugins\": %s,\n", list(network.plugins, [](const auto& one) {
                                      return "\n" + json(*one.first, *one.second);
                                    }).c_str());
  std::printf("\"in_place\": %zu,\n", given_in_place);
  std::printf("\"errors\": %s,\n", list(errors, text).c_str());
  std::printf("\"issues\": %s,\n", list(issues(), text).c_str());
  std::printf("\"log\": %s,\n", list(logger.lines, text).c_str());
  std::printf("\"unimplemented\": %s}\n", list(recorded::unimplemented(), text).c_str());
  delete parser;
  return 0;
}

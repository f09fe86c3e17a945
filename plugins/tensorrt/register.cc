// Registration of the creators: by a static initialiser when the library is merely loaded (dlopen:
// trtexec --staticPlugins, Polygraphy, ONNX Runtime), or through getCreators when TensorRT loads it
// (loadLibrary, trtexec --dynamicPlugins). TensorRT rejects creators that are already registered,
// so getCreators first deregisters those that the initialiser registered. If TensorRT's major
// version is not the one that the library was built for, it registers nothing and prints the reason
// to standard error, because that version's logger cannot be called.
#include <atomic>
#include <cstdio>
#include <iterator>

#include "tensorrt/plugin.h"

namespace covis::trt {
namespace {

using nvinfer1::IPluginCreatorInterface;
using nvinfer1::IPluginCreatorV3One;
using nvinfer1::IPluginRegistry;

// Never destroyed: TensorRT may read their names while the process ends.
struct Creators {
  IPluginCreatorV3One* ours[3] = {new Creator<AttentionOp>, new Creator<SelectOp>,
                                  new Creator<FarthestOp>};
  IPluginCreatorInterface* all[3] = {ours[0], ours[1], ours[2]};
};

Creators& creators() {
  static auto* const made = new Creators;
  return *made;
}

// Once, on standard error: the logger of that version cannot be called.
void tell_misfit() {
  static std::atomic<bool> told{false};
  if (!fits_tensorrt() && !told.exchange(true)) std::fprintf(stderr, "%s\n", misfit().c_str());
}

class SelfRegistration {
 public:
  SelfRegistration() noexcept {
    try {
      tell_misfit();
      IPluginRegistry* const to = registry();
      if (to == nullptr) return;  // TensorRT is loaded later and will call getCreators
      for (IPluginCreatorV3One* creator : creators().ours) {
        if (add(*to, *creator)) registered_.push_back(creator);
      }
    } catch (...) {  // loading a library must not end the process
    }
  }
  // The registry must not keep pointers into a library that is being unloaded.
  ~SelfRegistration() { take_back(); }

  // Only creators registered here: TensorRT refuses to deregister those that it loaded itself.
  void take_back() noexcept {
    for (IPluginCreatorV3One* creator : registered_) registry()->deregisterCreator(*creator);
    registered_.clear();
  }

 private:
  // Not getCreator() to look for others: that one logs an error where there is none.
  static bool add(IPluginRegistry& to, IPluginCreatorV3One& creator) {
    if (same_name(to, creator)) {
      report(ILogger::Severity::kWARNING, std::string("covis: another plugin library registered ") +
                                              creator.getPluginName() +
                                              " before; this one is not used");
      return false;
    }
    return to.registerCreator(creator, kNamespace);
  }
  static bool same_name(IPluginRegistry& in, IPluginCreatorV3One& creator) {
    int32_t count = 0;
    IPluginCreatorInterface* const* const all = in.getAllCreators(&count);
    const std::string kind = creator.getInterfaceInfo().kind;
    for (int32_t i = 0; i < count; ++i) {
      if (kind != all[i]->getInterfaceInfo().kind) continue;
      const auto& other = static_cast<IPluginCreatorV3One&>(*all[i]);
      if (std::string(other.getPluginName()) == creator.getPluginName() &&
          std::string(other.getPluginVersion()) == creator.getPluginVersion() &&
          std::string(other.getPluginNamespace()) == creator.getPluginNamespace()) {
        return true;
      }
    }
    return false;
  }

  std::vector<IPluginCreatorV3One*> registered_;
};

SelfRegistration& self_registration() {
  static SelfRegistration at_load;
  return at_load;
}

[[maybe_unused]] const bool registered_at_load = (self_registration(), true);

}  // namespace
}  // namespace covis::trt

extern "C" {

__attribute__((visibility("default"))) void setLoggerFinder(
    nvinfer1::ILoggerFinder* finder) noexcept {
  covis::trt::set_logger_finder(finder);
}

__attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    int32_t& count) noexcept {
  covis::trt::self_registration().take_back();
  covis::trt::tell_misfit();
  auto& all = covis::trt::creators().all;
  count = covis::trt::fits_tensorrt() ? static_cast<int32_t>(std::size(all)) : 0;
  return all;
}

}  // extern "C"

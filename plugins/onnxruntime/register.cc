// The one symbol of libcovis_ort: adds the domain `covis` to a session's options.
#include "onnxruntime/ort.h"

#if defined(_WIN32)
#define COVIS_EXPORT extern "C" __declspec(dllexport)
#else
#define COVIS_EXPORT extern "C" __attribute__((visibility("default")))
#endif

COVIS_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                       const OrtApiBase* base) {
  using namespace covis::ort;
  api = base->GetApi(kApiVersion);
  if (api == nullptr) return nullptr;  // older than 1.17: no status can be made, no op is added
  OrtCustomOpDomain* domain = nullptr;
  COVIS_RETURN_IF_FAILED(api->CreateCustomOpDomain("covis", &domain));
  // The domain has to outlive every session: it is never released.
  for (int type = 0; type < kTypeCount; ++type) {
    COVIS_RETURN_IF_FAILED(api->CustomOpDomain_Add(domain, attention_op(type)));
    COVIS_RETURN_IF_FAILED(api->CustomOpDomain_Add(domain, select_op(type)));
  }
  return api->AddCustomOpDomain(options, domain);
}

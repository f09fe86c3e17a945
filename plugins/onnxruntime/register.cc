// The two symbols of libcovis_ort. RegisterCustomOps adds the domain `covis` to a session's
// options.
#include "block_sparse_attention/cpu/tile.h"
#include "onnxruntime/ort.h"

#if defined(_WIN32)
#define COVIS_EXPORT extern "C" __declspec(dllexport)
#else
#define COVIS_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// The variant of the kernel that is used on this processor: "portable", "x86-64-v3" or "x86-64-v4".
COVIS_EXPORT const char* covis_cpu_instruction_set() { return covis::attention::instruction_set(); }

COVIS_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                       const OrtApiBase* base) {
  using namespace covis::ort;
  api = base->GetApi(kApiVersion);
  if (api == nullptr) return nullptr;  // older than 1.17: no status can be created, no op is added
  OrtCustomOpDomain* domain = nullptr;
  COVIS_RETURN_IF_FAILED(api->CreateCustomOpDomain("covis", &domain));
  // The domain has to outlive every session: it is never released.
  for (int type = 0; type < kTypeCount; ++type) {
    COVIS_RETURN_IF_FAILED(api->CustomOpDomain_Add(domain, attention_op(type)));
    COVIS_RETURN_IF_FAILED(api->CustomOpDomain_Add(domain, select_op(type)));
  }
  COVIS_RETURN_IF_FAILED(api->CustomOpDomain_Add(domain, farthest_op()));
  return api->AddCustomOpDomain(options, domain);
}

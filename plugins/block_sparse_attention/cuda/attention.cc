// The C ABI of BlockSparseAttention: launch plan, preparing kernels, attention kernel. Host code
// only.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <iterator>

#include "block_sparse_attention/cuda/covis_attention.h"
#include "block_sparse_attention/cuda/hopper_args.h"
#include "block_sparse_attention/cuda/launch_plan.h"
#include "block_sparse_attention/cuda/portable_args.h"
#include "block_sparse_attention/cuda/prepare.h"
#include "block_sparse_attention/cuda/quantize.h"
#include "block_sparse_attention/cuda/quantize_kernels.h"
#include "block_sparse_attention/cuda/tensor_map.h"

namespace covis {

// One function for each row of instances.def, each compiled in a file of its own.
#define COVIS_HOPPER(name, ...) HopperLaunch launch_hopper_##name;
#define COVIS_PORTABLE(name, ...) PortableLaunch launch_portable_##name;
#include "block_sparse_attention/cuda/instances.def"

namespace {

int query_device(const Message& m, Device* device) {
  int id = 0;
  int major = 0;
  int minor = 0;
  cudaError_t status = cudaGetDevice(&id);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, id);
  }
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, id);
  }
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&device->multiprocessors, cudaDevAttrMultiProcessorCount, id);
  }
  if (status != cudaSuccess) {
    cudaGetLastError();  // the caller's next call must not see it
    return m.fail(kCovisNoDevice, "no usable CUDA device: %s", cudaGetErrorString(status));
  }
  device->capability = 10 * major + minor;
  return kCovisOk;
}

uint8_t* part(const CovisAttentionParams& p, uint64_t offset) {
  return static_cast<uint8_t*>(p.workspace) + offset;
}

KernelArgs kernel_args(const CovisAttentionParams& p, const LaunchPlan& plan) {
  KernelArgs args{};
  args.geometry = plan.geometry;
  args.level = p.level;
  args.o = p.o;
  for (int i = 0; i < 3; ++i) args.o_stride[i] = p.o_stride[i];
  args.order =
      plan.ordered ? reinterpret_cast<const uint32_t*>(part(p, plan.workspace.order)) : nullptr;
  args.counter = reinterpret_cast<int32_t*>(part(p, plan.workspace.counter));
  args.tiles = static_cast<int32_t>(plan.tiles);
  args.scale_log2 = plan.scale * 1.44269504088896340736f;
  return args;
}

// Copies Q, K, V and their strides to the arguments of a kernel that reads them directly.
template <typename Args>
void set_tokens(const CovisAttentionParams& p, Args* args) {
  args->q = p.q;
  args->k = p.k;
  args->v = p.v;
  for (int i = 0; i < 3; ++i) {
    args->q_stride[i] = p.q_stride[i];
    args->k_stride[i] = p.k_stride[i];
    args->v_stride[i] = p.v_stride[i];
  }
}

// The FP8 copies in the workspace, and the tensors from which they are computed.
QuantizeArgs quantize_args(const CovisAttentionParams& p, const LaunchPlan& plan) {
  const Workspace& w = plan.workspace;
  const auto floats = [&](uint64_t offset) { return reinterpret_cast<float*>(part(p, offset)); };
  QuantizeArgs args{};
  args.geometry = plan.geometry;
  set_tokens(p, &args);
  args.q8 = part(p, w.q8);
  args.k8 = part(p, w.k8);
  args.v8 = part(p, w.v8);
  args.q_scale = floats(w.q_scale);
  args.k_scale = floats(w.k_scale);
  args.v_scale = floats(w.v_scale);
  args.k_mean = floats(w.k_mean);
  args.q_dot_mean = floats(w.q_dot_mean);
  args.partial = floats(w.measured);
  return args;
}

// The patches of a tensor, with the frame as a dimension: rows outside a frame are filled with
// zeros when loaded and never written.
BoxedTensor patches_of(const Geometry& g, const void* data, const int64_t (&stride)[3], int dim) {
  const auto* first = static_cast<const uint8_t*>(data) + int64_t{2} * g.special_first * stride[2];
  return BoxedTensor{first,     dim,      g.patches, g.frames,
                     g.heads,   g.batch,  stride[2], stride[2] * g.frame_tokens,
                     stride[1], stride[0]};
}

BoxedTensor specials_of(const Geometry& g, const void* data, int dim) {
  const int64_t head = static_cast<int64_t>(g.specials) * dim;
  return BoxedTensor{data, dim, g.specials, 1, g.heads, g.batch, dim, dim, head, head * g.heads};
}

// FP8 Q or K: patches in order of their running number.
BoxedTensor low_rows(const Geometry& g, const void* data, int dim) {
  const int64_t head = int64_t{g.total_patches} * dim;
  return BoxedTensor{data, dim,  g.total_patches, 1, g.heads, g.batch, dim,
                     head, head, head * g.heads};
}

// FP8 V, transposed.
BoxedTensor low_columns(const Geometry& g, const void* data, int dim) {
  const int64_t width = int64_t{cells_of(g)} * kPiece;
  const int64_t head = width * dim;
  return BoxedTensor{data, width, dim, 1, g.heads, g.batch, width, head, head, head * g.heads};
}

int make_maps(const CovisAttentionParams& p, const LaunchPlan& plan, const Message& m,
              HopperMaps* maps) {
  const Geometry& g = plan.geometry;
  const Workspace& w = plan.workspace;
  const int dim = static_cast<int>(p.head_dim);
  const BoxKind wide{p.data_type == kCovisBfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                   : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                     2, 64, kPiece};
  const BoxKind rows{CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, dim, kPiece};
  const BoxKind columns{CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, kPiece, dim};
  struct {
    BoxedTensor tensor;
    BoxKind box;
    CUtensorMap* map;
    bool used;
  } const all[] = {
      {patches_of(g, p.q, p.q_stride, dim), wide, &maps->q, g.total_patches > 0},
      {patches_of(g, p.k, p.k_stride, dim), wide, &maps->k, g.total_patches > 0},
      {patches_of(g, p.v, p.v_stride, dim), wide, &maps->v, g.total_patches > 0},
      {patches_of(g, p.o, p.o_stride, dim), wide, &maps->o, g.total_patches > 0},
      {specials_of(g, part(p, w.special_q), dim), wide, &maps->special_q, g.specials > 0},
      {specials_of(g, part(p, w.special_k), dim), wide, &maps->special_k, g.specials > 0},
      {specials_of(g, part(p, w.special_v), dim), wide, &maps->special_v, g.specials > 0},
      {low_rows(g, part(p, w.q8), dim), rows, &maps->low_q, plan.fp8},
      {low_rows(g, part(p, w.k8), dim), rows, &maps->low_k, plan.fp8},
      {low_columns(g, part(p, w.v8), dim), columns, &maps->low_v, plan.fp8}};
  for (const auto& entry : all) {
    if (!entry.used) continue;
    const int error = encode_tensor_map(entry.tensor, entry.box, entry.map);
    if (error == CUDA_ERROR_NOT_FOUND) {
      return m.fail(kCovisNoDevice, "the driver is too old for tensor maps; it must be of CUDA 12");
    }
    if (error != CUDA_SUCCESS) {
      return m.fail(kCovisCudaError, "the driver refused a tensor map (error %d)", error);
    }
  }
  return kCovisOk;
}

cudaError_t gather(const CovisAttentionParams& p, const LaunchPlan& plan, cudaStream_t stream) {
  const Geometry& g = plan.geometry;
  const Workspace& w = plan.workspace;
  const int dim = static_cast<int>(p.head_dim);
  cudaError_t status = launch_gather(g, p.q, p.q_stride, dim, part(p, w.special_q), stream);
  if (status == cudaSuccess) {
    status = launch_gather(g, p.k, p.k_stride, dim, part(p, w.special_k), stream);
  }
  if (status == cudaSuccess) {
    status = launch_gather(g, p.v, p.v_stride, dim, part(p, w.special_v), stream);
  }
  return status;
}

struct HopperInstance {
  int32_t data_type;
  int64_t head_dim;
  bool polynomial, fp8;
  HopperLaunch* launch;
};

constexpr HopperInstance kHopperInstances[] = {
#define COVIS_HOPPER(name, type, head_dim, polynomial, fp8) \
  {type, head_dim, polynomial, fp8, launch_hopper_##name},
#include "block_sparse_attention/cuda/instances.def"
};

struct PortableInstance {
  int32_t data_type;
  int64_t head_dim;
  PortableLaunch* launch;
};

constexpr PortableInstance kPortableInstances[] = {
#define COVIS_PORTABLE(name, type, head_dim) {type, head_dim, launch_portable_##name},
#include "block_sparse_attention/cuda/instances.def"
};

int no_instance(const CovisAttentionParams& p, const Message& m) {
  return m.fail(kCovisUnsupported, "no kernel is built for data_type %d and head_dim %lld",
                p.data_type, static_cast<long long>(p.head_dim));
}

int run_hopper(const CovisAttentionParams& p, const LaunchPlan& plan, const Device& device,
               cudaStream_t stream, const Message& m, cudaError_t* error) {
  const auto* const instance =
      std::find_if(std::begin(kHopperInstances), std::end(kHopperInstances), [&](const auto& i) {
        return i.data_type == p.data_type && i.head_dim == p.head_dim &&
               i.polynomial == plan.polynomial && i.fp8 == plan.fp8;
      });
  if (instance == std::end(kHopperInstances)) return no_instance(p, m);
  HopperArgs args{};
  args.kernel = kernel_args(p, plan);
  const int status = make_maps(p, plan, m, &args.maps);
  if (status != kCovisOk) return status;
  *error = cudaMemsetAsync(args.kernel.counter, 0, sizeof(int32_t), stream);
  if (*error == cudaSuccess && plan.geometry.specials > 0) *error = gather(p, plan, stream);
  if (*error == cudaSuccess && plan.fp8) {
    const QuantizeArgs low = quantize_args(p, plan);
    args.low = LowScales{low.q_scale, low.k_scale, low.v_scale, low.q_dot_mean};
    *error =
        launch_quantize(low, static_cast<int>(p.head_dim), p.data_type == kCovisBfloat16, stream);
  }
  if (*error == cudaSuccess) {
    const int ctas = min_int(device.multiprocessors, args.kernel.tiles);
    *error = instance->launch(args, ctas, stream);
  }
  return kCovisOk;
}

int run_portable(const CovisAttentionParams& p, const LaunchPlan& plan, cudaStream_t stream,
                 const Message& m, cudaError_t* error) {
  const auto* const instance = std::find_if(
      std::begin(kPortableInstances), std::end(kPortableInstances),
      [&](const auto& i) { return i.data_type == p.data_type && i.head_dim == p.head_dim; });
  if (instance == std::end(kPortableInstances)) return no_instance(p, m);
  PortableArgs args{};
  args.kernel = kernel_args(p, plan);
  set_tokens(p, &args);
  *error = instance->launch(args, stream);
  return kCovisOk;
}

int launch(const CovisAttentionParams& p, cudaStream_t stream, const Message& m) {
  Device device;
  LaunchPlan plan;
  int status = query_device(m, &device);
  if (status == kCovisOk) status = make_launch_plan(p, device, true, m, &plan);
  if (status != kCovisOk || plan.tiles == 0) return status;
  cudaError_t error = cudaSuccess;
  if (plan.ordered) {
    error = launch_order(plan.geometry, p.level, static_cast<int>(p.level_batch),
                         static_cast<int>(p.level_heads),
                         reinterpret_cast<uint32_t*>(part(p, plan.workspace.lengths)),
                         reinterpret_cast<uint32_t*>(part(p, plan.workspace.order)), stream);
  }
  if (error == cudaSuccess) {
    status = plan.hopper ? run_hopper(p, plan, device, stream, m, &error)
                         : run_portable(p, plan, stream, m, &error);
  }
  if (status != kCovisOk) return status;
  if (error != cudaSuccess) {
    cudaGetLastError();
    return m.fail(kCovisCudaError, "launch failed: %s", cudaGetErrorString(error));
  }
  return kCovisOk;
}

}  // namespace
}  // namespace covis

extern "C" {

int covis_abi_version(void) { return 1; }

int covis_attention_workspace(const CovisAttentionParams* params, uint64_t* bytes, char* message,
                              size_t message_bytes) {
  const covis::Message m{message, message_bytes};
  if (params == nullptr || bytes == nullptr) {
    return m.fail(kCovisBadArgument, "params or bytes is a null pointer");
  }
  covis::Device device;
  covis::LaunchPlan plan;
  int status = covis::query_device(m, &device);
  if (status == kCovisOk) status = covis::make_launch_plan(*params, device, false, m, &plan);
  if (status == kCovisOk) *bytes = plan.workspace.bytes;
  return status;
}

int covis_attention_launch(const CovisAttentionParams* params, void* stream, char* message,
                           size_t message_bytes) {
  const covis::Message m{message, message_bytes};
  if (params == nullptr) return m.fail(kCovisBadArgument, "params is a null pointer");
  return covis::launch(*params, static_cast<cudaStream_t>(stream), m);
}

}  // extern "C"

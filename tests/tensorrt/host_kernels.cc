// libcovis_kernels.so for machines without a GPU, so that the plugin's enqueue can be driven on
// host memory: the checks and workspace sizes are those of the CUDA library's own host code, for an
// H200; the numbers come from the CPU kernels, which pass the same suite.
#include "block_select/cpu/select.h"
#include "block_select/cuda/launch_plan.h"
#include "block_sparse_attention/cpu/attention.h"
#include "block_sparse_attention/cuda/launch_plan.h"
#include "cuda/layout_fields.h"
#include "farthest_first/cpu/farthest.h"
#include "farthest_first/cuda/launch_plan.h"

namespace {

const covis::Device kH200{90, 132};
const covis::ParallelFor kSerial{
    [](void*, int64_t count, covis::ParallelFor::Body body, void* argument) {
      for (int64_t i = 0; i < count; ++i) body(argument, i);
    },
    nullptr};

covis::DataType type_of(int32_t data_type) {
  return data_type == 0   ? covis::DataType::kFloat16
         : data_type == 1 ? covis::DataType::kBFloat16
                          : covis::DataType::kFloat32;
}

bool contiguous(const int64_t (&stride)[3], int64_t heads, int64_t tokens, int64_t dim) {
  return stride[0] == heads * tokens * dim && stride[1] == tokens * dim && stride[2] == dim;
}

int finish(const covis::Message& m, const std::string& error) {
  return error.empty() ? kCovisOk : m.fail(kCovisBadArgument, "%s", error.c_str());
}

}  // namespace

extern "C" {

int covis_abi_version(void) { return 1; }

int covis_attention_workspace(const CovisAttentionParams* params, uint64_t* bytes, char* message,
                              size_t message_bytes) {
  covis::LaunchPlan plan;
  const int status =
      covis::make_launch_plan(*params, kH200, false, covis::Message{message, message_bytes}, &plan);
  *bytes = plan.workspace.bytes;
  return status;
}

int covis_attention_launch(const CovisAttentionParams* params, void*, char* message,
                           size_t message_bytes) {
  const covis::Message m{message, message_bytes};
  const CovisAttentionParams& p = *params;
  covis::LaunchPlan plan;
  const int status = covis::make_launch_plan(p, kH200, true, m, &plan);
  if (status != kCovisOk) return status;
  for (const auto* stride : {&p.q_stride, &p.k_stride, &p.v_stride, &p.o_stride}) {
    if (!contiguous(*stride, p.heads, p.tokens, p.head_dim)) {
      return m.fail(kCovisUnsupported, "the host kernels take no strides");
    }
  }
  covis::AttentionParams cpu;
  cpu.type = type_of(p.data_type);
  cpu.batch = p.batch, cpu.heads = p.heads, cpu.tokens = p.tokens, cpu.head_size = p.head_dim;
  cpu.query = p.q, cpu.key = p.k, cpu.value = p.v, cpu.output = p.o;
  cpu.level = p.level;
  cpu.level_batch = p.level_batch, cpu.level_heads = p.level_heads;
  cpu.level_rows = p.level_rows, cpu.level_columns = p.level_cols;
  cpu.layout = covis::layout_of(p);
  cpu.scale = p.scale;
  return finish(m, covis::block_sparse_attention(cpu, kSerial));
}

int covis_select_workspace(const CovisSelectParams* params, uint64_t* bytes, char* message,
                           size_t message_bytes) {
  covis::SelectLaunchPlan plan;
  const int status =
      covis::make_launch_plan(*params, false, covis::Message{message, message_bytes}, &plan);
  *bytes = plan.bytes;
  return status;
}

int covis_select_launch(const CovisSelectParams* params, void*, char* message,
                        size_t message_bytes) {
  const covis::Message m{message, message_bytes};
  const CovisSelectParams& p = *params;
  covis::SelectLaunchPlan plan;
  const int status = covis::make_launch_plan(p, true, m, &plan);
  if (status != kCovisOk) return status;
  if (!contiguous(p.q_stride, p.heads, p.tokens, p.head_dim) ||
      !contiguous(p.k_stride, p.heads, p.tokens, p.head_dim)) {
    return m.fail(kCovisUnsupported, "the host kernels take no strides");
  }
  covis::SelectParams cpu;
  cpu.type = type_of(p.data_type);
  cpu.batch = p.batch, cpu.heads = p.heads, cpu.tokens = p.tokens, cpu.head_size = p.head_dim;
  cpu.query = p.q, cpu.key = p.k, cpu.pair = p.pair;
  cpu.pair_rows = cpu.pair_columns = p.pair_frames;
  cpu.keep_ratio = *p.keep_ratio, cpu.cdf = *p.cdf;
  cpu.layout = covis::layout_of(p);
  cpu.pool = p.pool == 0 ? covis::Pool::kMean : covis::Pool::kMax;
  cpu.level = p.level;
  return finish(m, covis::block_select(cpu, kSerial));
}

int covis_farthest_workspace(const CovisFarthestParams* params, uint64_t* bytes, char* message,
                             size_t message_bytes) {
  *bytes = 0;
  return covis::check_farthest(*params, false, covis::Message{message, message_bytes});
}

int covis_farthest_launch(const CovisFarthestParams* params, void*, char* message,
                          size_t message_bytes) {
  const covis::Message m{message, message_bytes};
  const CovisFarthestParams& p = *params;
  const int status = covis::check_farthest(p, true, m);
  if (status != kCovisOk) return status;
  const covis::FarthestParams cpu{p.views, p.similarity, p.given, *p.count, p.rank};
  return finish(m, covis::farthest_first(cpu));
}

}  // extern "C"

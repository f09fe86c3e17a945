// The two handle types that TensorRT's headers need from CUDA's. The plugin only passes them on, so
// it is built without a CUDA toolkit.
#pragma once

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;

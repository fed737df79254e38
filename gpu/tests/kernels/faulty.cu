// Kernels with a fault each, which the shim has to find: see shim.rs.

#include "common.cuh"

// Reads what another thread writes, without a barrier between.
KERNEL(64, lacks_a_barrier, (u32 * out)) {
    __shared__ u32 room[64];
    room[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = room[63 - threadIdx.x];
}

// The same with one.
KERNEL(64, has_its_barrier, (u32 * out)) {
    __shared__ u32 room[64];
    room[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = room[63 - threadIdx.x];
}

// One lane waits for the block, the others of its warp for that lane.
KERNEL(64, waits_for_ever, (u32 * out)) {
    if (threadIdx.x == 0) __syncthreads();
    else if (threadIdx.x < 32) __syncwarp();
    out[threadIdx.x] = 1;
}

// Half of a warp leaves before the other half asks it something.
KERNEL(32, leaves_early, (u32 * out)) {
    if (threadIdx.x >= 16) return;
    out[threadIdx.x] = __shfl_xor_sync(NONE, threadIdx.x, 16);
}

KERNEL(32, writes_beyond, (u32 * out)) { out[threadIdx.x + 1] = 1; }

KERNEL(32, has_too_little_shared_memory, (u32 * out)) {
    SHARED_BYTES(memory);
    ((u32*)memory)[threadIdx.x] = 7;
    out[threadIdx.x] = 1;
}

// Shared memory as it begins is no number.
KERNEL(32, reads_what_nobody_wrote, (f32 * out)) {
    SHARED_BYTES(memory);
    out[threadIdx.x] = ((f32*)memory)[threadIdx.x];
}

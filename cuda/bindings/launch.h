// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// What every binding of a CUDA launcher needs: the device it runs on, the stream, and errors as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "bindings/args.h"

namespace pyloc::bindings {

inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // an error that was reported must not fail the next call
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Where a launch goes: (device, stream) as Python holds them. The device is current while this object lives,
// for this module's own copy of the runtime.
class Launch {
 public:
  Launch(int device, std::uintptr_t stream) : stream_(reinterpret_cast<cudaStream_t>(stream)) {
    check_cuda(cudaGetDevice(&previous_), "cudaGetDevice");
    if (device != previous_) check_cuda(cudaSetDevice(device), "cudaSetDevice");
    changed_ = device != previous_;
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
  ~Launch() {
    if (changed_) (void)cudaSetDevice(previous_);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  cudaStream_t stream_;
  int previous_ = 0;
  bool changed_ = false;
};

}  // namespace pyloc::bindings

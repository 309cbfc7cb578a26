// A small star cluster: bodies that attract one another, stepped on the device for some seconds, one step
// checked against the CPU at the start and the total momentum at the end.
//   nbody [--seconds S]
#include "check.hpp"

namespace {

constexpr int kBodies = 512;
constexpr int kTile = 128;
constexpr float kStep = 0.001F;
constexpr float kSoftening = 0.01F;

__global__ void advance(const float4* from, float4* to, float4* velocity) {
  __shared__ float4 tile[kTile];
  const int self = static_cast<int>(blockIdx.x * kTile + threadIdx.x);
  const float4 position = from[self];
  float3 force = make_float3(0.0F, 0.0F, 0.0F);
  for (int start = 0; start < kBodies; start += kTile) {
    tile[threadIdx.x] = from[start + threadIdx.x];
    __syncthreads();
    for (int k = 0; k < kTile; ++k) {
      const float x = tile[k].x - position.x;
      const float y = tile[k].y - position.y;
      const float z = tile[k].z - position.z;
      const float inverse = rsqrtf(x * x + y * y + z * z + kSoftening);
      const float pull = tile[k].w * inverse * inverse * inverse;
      force.x += x * pull;
      force.y += y * pull;
      force.z += z * pull;
    }
    __syncthreads();
  }
  float4 speed = velocity[self];
  speed.x += force.x * kStep;
  speed.y += force.y * kStep;
  speed.z += force.z * kStep;
  velocity[self] = speed;
  to[self] = make_float4(position.x + speed.x * kStep, position.y + speed.y * kStep,
                         position.z + speed.z * kStep, position.w);
}

void check_first_step(const std::vector<float4>& before, const std::vector<float4>& after) {
  for (int i = 0; i < kBodies; i += 37) {
    double force = 0;
    for (int k = 0; k < kBodies; ++k) {
      const double x = before[k].x - before[i].x;
      const double y = before[k].y - before[i].y;
      const double z = before[k].z - before[i].z;
      const double inverse = 1.0 / std::sqrt(x * x + y * y + z * z + kSoftening);
      force += x * before[k].w * inverse * inverse * inverse;
    }
    const double wanted = before[i].x + force * kStep * kStep;
    EXPECT(check::near(after[i].x, wanted, 1e-5), "body %d is at %g, wanted %g", i, after[i].x, wanted);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 2 && std::strcmp(argv[1], "--seconds") == 0 ? std::atof(argv[2]) : 0.5;
  check::Random random(81);
  std::vector<float4> bodies(kBodies);
  for (auto& body : bodies)
    body = make_float4(random.unit(), random.unit(), random.unit(), 0.1F + random.unit());
  float4* positions[2] = {};
  float4* velocity = nullptr;
  constexpr size_t kBytes = kBodies * sizeof(float4);
  for (auto& buffer : positions) CUDA_OK(cudaMalloc(&buffer, kBytes));
  CUDA_OK(cudaMalloc(&velocity, kBytes));
  CUDA_OK(cudaMemset(velocity, 0, kBytes));
  CUDA_OK(cudaMemcpy(positions[0], bodies.data(), kBytes, cudaMemcpyHostToDevice));
  advance<<<kBodies / kTile, kTile>>>(positions[0], positions[1], velocity);
  std::vector<float4> seen(kBodies);
  CUDA_OK(cudaMemcpy(seen.data(), positions[1], kBytes, cudaMemcpyDeviceToHost));
  check_first_step(bodies, seen);

  int steps = 1;
  for (const double end = check::seconds() + seconds; check::seconds() < end;) {
    for (int i = 0; i < 4; ++i, ++steps) {
      advance<<<kBodies / kTile, kTile>>>(positions[steps % 2], positions[(steps + 1) % 2], velocity);
    }
    CUDA_OK(cudaDeviceSynchronize());
  }
  CUDA_OK(cudaMemcpy(seen.data(), velocity, kBytes, cudaMemcpyDeviceToHost));
  double momentum = 0;
  double largest = 0;
  for (int i = 0; i < kBodies; ++i) {
    momentum += static_cast<double>(seen[i].x) * bodies[i].w;
    largest = std::fmax(largest, std::fabs(seen[i].x));
  }
  EXPECT(std::fabs(momentum) < 1e-3 * largest * kBodies + 1e-3, "the cluster drifts: momentum %g", momentum);
  std::printf("nbody: %d bodies, %d steps, momentum %.1e: ok\n", kBodies, steps, momentum);
  return 0;
}

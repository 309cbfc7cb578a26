// What devices are to each other: who may use whose memory, and how copies between them are ordered. All
// devices are in this process's one address space, so access that was not enabled is not kept from anybody;
// only the calls say so.
#pragma once

#include "softgpu/driver/context.hpp"
#include "softgpu/driver/work.hpp"

namespace softgpu {

struct CopyPlan;

/// The context was reset: nobody has access to it any more, nor it to others.
void forget_peer_access(const Context& context);

/// A copy in the legacy stream between devices is ordered as if it were in the legacy streams of all contexts
/// concerned. These are the contexts besides the stream's own; none for other streams and copies.
std::vector<Context*> contexts_concerned(const Stream& stream, const CopyWork& box);
/// Makes the stream wait for what their legacy streams would wait for.
void wait_for_contexts(Stream& stream, const std::vector<Context*>& contexts);
/// Makes their legacy streams wait for an operation.
void hold_contexts(const std::vector<Context*>& contexts, const OperationRef& operation);

}  // namespace softgpu

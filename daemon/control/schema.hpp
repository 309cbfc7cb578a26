// The control protocol between vgpud and vgpud-cli: its words, so that both sides spell them alike. The only
// header of the daemon that the command line tool uses; holds no code.
//
// A unix stream socket (default /run/vgpud/control.sock). Each request is one line of JSON, each answer
// another:
//   {"request":"stats"}    every client of the asking user; for root and vgpud's user, of all users:
//   {"ok":true,"clients":[...],"ended":[...],"devices":[...],"broker":{...}}
//       "mine":true        only clients among the descendants of the asking process
//       "calls":true       with the number of calls by name
//   {"request":"devices"}  {"ok":true,"devices":[...]}
//   {"request":"version"}  {"ok":true,"version":"0.1.0","protocol":"<hash>","pid":123}
//   {"request":"vms"}      {"ok":true,"vms":[...]}, empty for others than root and vgpud's user; also in
//   stats
//   {"request":"vm_add","name":...,"bytes":...,"slots":...,"class":...,"device":...,"socket":...}, all but
//   the name
//       optional; {"request":"vm_remove","name":...}: only root and vgpud's user
//   {"request":"reload"}   as SIGHUP; only root and the user that vgpud runs as
// A request that fails is answered {"ok":false,"error":"<sentence>"}. Times in ns, sizes in bytes. Keys may
// be added; readers ignore those they do not know.
#pragma once

#include <cstddef>

namespace vgpu::control {

inline constexpr const char* kDefaultSocket = "/run/vgpud/control.sock";
inline constexpr const char* kSocketVariable = "VGPUD_CONTROL";
inline constexpr std::size_t kMaxRequest = std::size_t{64} << 10U;  // bytes of a request line
inline constexpr std::size_t kMaxAnswer = std::size_t{32} << 20U;   // bytes of an answer line

}  // namespace vgpu::control

// The control protocol between vgpud and vgpud-cli: its words, so that both sides spell them alike. The only
// header of the daemon that the command line tool uses; holds no code.
//
// A unix stream socket (default /run/vgpud/control.sock). Each request is one line of JSON, each answer
// another:
//   {"request":"stats"}    every client of the asking user; for administrators and
//   monitor_group, of all users:
//   {"ok":true,"clients":[...],"ended":[...],"devices":[...],"vms":[...],"broker":{...},
//    "rejections":[{"uid":U,"class":"batch","reason":"limit","count":N,"program":"...","sentence":"...",
//    "age_ns":N},...]}: of those who were refused, by user, class and reason (metrics/rejections.hpp); the
//    rest of a row is about the last one
//       "mine":true        only clients among the descendants of the asking process, and those of them that
//                          were refused last: "refused":[{"number":N,"pid":P,"sentence":"..."},...], N grows
//       "calls":true       with the number of calls by name
//       "histograms":true  with "latency":{"sum_ns":N,"buckets":[[end_ns,count],...]} of waited-for calls,
//       likewise
//                          "wait" of commands that waited for their turn
//   {"request":"devices"}  {"ok":true,"devices":[...]}
//   {"request":"version"}  {"ok":true,"version":"0.1.0","protocol":"<hash>","pid":123}
//   {"request":"vms"}      {"ok":true,"vms":[...]}, empty for who may not see every client; also in
//   stats
//   {"request":"vm_add","name":...,"bytes":...,"slots":...,"class":...,"device":...,"socket":...}, all but
//   the name
//       optional; {"request":"vm_remove","name":...}: only administrators
//
// Requests that change clients; "session":N may stand for "pid":N. Administrators (root, vgpud's own user,
// members of the configuration's admin_group) may change every client, anybody else his own:
//   {"request":"set","target":"client","pid":N,"settings":{"weight":"50"},"save":false}
//       keys of a class, for administrators also "class" and "device"; an owner may only ask for less than he
//       was given; "save" makes it a rule for the next starts of this user's program; all is done or nothing
//   {"request":"pause","pid":N}, {"request":"resume","pid":N}
//   {"request":"kill","pid":N}     its worker ends, its calls fail
//   answer: {"ok":true,"clients":<how many were changed>}
// Requests about one user's programs, for administrators; "uid":U,"executable":"/path" may stand for "pid":N:
//   {"request":"quarantine","pid":N,"for":"10min","why":"..."}  its clients wait, new ones are refused;
//   without
//       "for" until it is released
//   {"request":"release","pid":N}
//   {"request":"quarantined"}  who is there, to anybody: his own programs;
//       {"ok":true,"quarantined":[{"uid":U,"executable":"...","why":"...","faults":N,"age_ns":N,"left_ns":N},...]}
// Requests that change the policy, for administrators:
//   {"request":"set","target":"class"|"rule"|"device"|"limits"|"scheduler","name":"batch","settings":{...},"save":false}
//   {"request":"policy"}   {"ok":true,"documents":[{"file":"...","text":"..."},...],"unread":["...",...]}:
//   all that holds, in order, as it was when it was read; sentences say what differs on disk since
//   {"request":"check"}    {"ok":true,"mistakes":["file:line:column: ...",...]}: of the files as they are now
//   {"request":"reload"}   as SIGHUP: the files hold, changes that were not saved are forgotten
// Answers to set and reload may have "notes":["...",...], sentences such as what waits for a restart.
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

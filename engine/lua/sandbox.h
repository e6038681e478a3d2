// Sandbox: what a Lua state of a service contains.
//
// Purpose:   an allow-list of libraries and functions; what isn't named here is not there.
// Threads:   the worker that runs the VM.
// Ownership: none.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/message.h"
#include "lua.hpp"

namespace perilune {

// Opens the libraries in a new state, with the JIT off and math.random seeded by `seed`.
void open_sandbox(lua_State* L, std::uint64_t seed);

// Pushes the environment of a new service: the state's globals for one that is alone in its
// state; a table of its own, over read-only libraries, for a light one. A trusted one gets io,
// os, debug, ffi and jit besides.
void push_environment(lua_State* L, bool light, bool trusted);

// Puts a read-only stand-in of the table on top in its place: what light services share.
void push_frozen(lua_State* L);

// Has the function of C `name` of the table on top raise where C is nested too deep.
void guard_depth(lua_State* L, const char* name);

// Turns the compiler on, opening its library at the first time.
void enable_jit(lua_State* L);

// The text of an error value: a string as it is, a table's `message`, or its type; no __tostring,
// which would run code of the script here. At most 4 KB.
std::string error_text(lua_State* L, int index);

// --- failed calls, as core.finish takes them ---

// Pushes the mark and the outcome; a text, a traceback and a value may follow. Returns 2.
int push_failure_head(lua_State* L, Outcome outcome);
// Pushes the mark, the outcome and `text`. Returns 3.
int push_failure(lua_State* L, Outcome outcome, std::string_view text);
// If the arguments are a failure, raises it as a perilune.CallError; else returns all of them.
int finish_call(lua_State* L);

}  // namespace perilune

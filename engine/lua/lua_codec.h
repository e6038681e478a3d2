// Codec for Lua: values of a Lua stack to a payload (core/codec.h) and back.
//
// Purpose:   what messages are made of and read from; the hottest code of the host.
// Threads:   the thread that runs the VM of `L`.
// Ownership: nothing is kept between calls.
//
// Lua errors: pack() and unpack() answer with a Status. They raise only what the VM raises when
// memory runs out while it grows a stack or makes a string or table ("not enough memory"), or
// when the stack of `L` is at its end already ("stack overflow", over 65,500 slots). They run no
// metamethod and no Lua code, and a raise leaves nothing behind: PayloadWriter cleans up as the
// stack is unwound. Small payloads may therefore run unprotected inside a C function or a
// resumed coroutine; large ones (over 64 KB) belong into a protected call, since a VM near its
// memory limit refuses just those.
#pragma once

#include <cstddef>
#include <string_view>

#include "core/codec.h"
#include "core/payload.h"
#include "lua.hpp"
#include "perilune/status.h"

namespace perilune {

// Appends the values at the stack indexes first..last (positive) to `out`, which as a whole may
// reach kMaxPayload: what comes before, such as a command's name, counts. Metatables are
// ignored and no metamethod is run; a proxy of shared data (lua/lua_shared.h) is sent as a plain
// table, NULL light userdata as itself. All else that isn't nil, boolean, number, string or table
// is refused with the path to it, as are cycles:
//   argument 2: .items[3].callback is a function, which cannot be sent
// `what` is the word for the values, "argument" or "result"; the first one has number 1. After
// a failure `out` holds an incomplete payload, to be dropped. The stack is as before.
Status pack(lua_State* L, int first, int last, PayloadWriter& out, const char* what = "argument");

// Pushes all values of a payload and adds their number to `*count`. After a failure the stack is
// as before and `*count` unchanged.
Status unpack(lua_State* L, const char* data, std::size_t size, int* count);

// Whether Lua takes `text` for a name, but for its keywords: as a field it stands after a dot.
bool is_identifier(std::string_view text);

// Pushes the library table {pack = function(...) -> string, unpack = function(string) -> ...}.
// Both raise on misuse. Needs a protected call.
void push_codec_library(lua_State* L);

}  // namespace perilune

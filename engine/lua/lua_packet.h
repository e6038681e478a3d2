// Lua module perilune.packet: the packets that clients, gateways and services exchange.
//
//   packet  i16 stype | i16 ctype | u32 utag | i16 proto_type | body    all little-endian
//   body    JSON (proto_type 1): u16 byte length | UTF-8 of {"0": value, "1": request_id}
//           BUF (proto_type 2): the fields of a declared message, one after the other
//
// Purpose:   header, envelope of JSON bodies, and a codec that a list of fields is compiled to:
//            BUF to values and back, values to JSON, and the check of what JSON gave.
// Threads:   the thread that runs the VM of `L`.
// Ownership: a compiled codec is a userdata of its VM; nothing else is kept between calls.
//
// All that comes in is hostile: every read is bounded, nothing is allocated ahead of the bytes
// that have arrived, bytes left over are refused. Encoding raises and names the field; decoding
// returns nil, a message and "malformed". lualib/meta/packet.lua documents the functions.
#pragma once

#include "game/packet.h"
#include "lua.hpp"

namespace perilune {

// Pushes the library table. Needs a protected call.
void push_packet_library(lua_State* L);

}  // namespace perilune

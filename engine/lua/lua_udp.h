// perilune.native.udp: plain datagrams for lualib/perilune/udp.lua.
//
// Purpose:   one function for each entry of lualib/meta/udp.lua: checks, calls Datagrams, pushes.
//            What users see is lualib/perilune/udp.lua.
// Threads:   the worker that runs the VM.
// Ownership: none; ids are Lua numbers.
#pragma once

#include <cstdint>

#include "core/message.h"
#include "lua.hpp"
#include "net/address.h"
#include "perilune/status.h"

namespace perilune {

// Pushes the table of native functions.
void push_udp_library(lua_State* L);

// Pushes what a handler of "udp" events is called with; returns how much that is.
int push_udp_event(lua_State* L, const Message& message);

// --- for the binding of ENet ---

// nil, message, code
int push_failure(lua_State* L, const Status& status);
// true | nil, message, code
int push_outcome(lua_State* L, const Status& status);
// host, port | nil, message, code
int push_address(lua_State* L, const Result<Address>& address);
// An integer in that range; raises otherwise.
std::uint64_t check_integer(lua_State* L, int index, double least, double most);
std::uint64_t check_udp_id(lua_State* L, int index);
// A numeric address and a port.
Result<Address> read_address(const char* host, std::uint16_t port);
// stats() -> table: the node's counters whose names begin with `prefix` or `other`
int push_udp_counters(lua_State* L, const char* prefix, const char* other);

}  // namespace perilune

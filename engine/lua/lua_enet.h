// perilune.native.enet: reliable datagrams for lualib/perilune/enet.lua.
//
// Purpose:   one function for each entry of lualib/meta/enet.lua: checks, calls Enet, pushes.
//            What users see is lualib/perilune/enet.lua.
// Threads:   the worker that runs the VM.
// Ownership: none; ids are Lua numbers.
#pragma once

#include "core/message.h"
#include "lua.hpp"

namespace perilune {

// Pushes the table of native functions.
void push_enet_library(lua_State* L);

// Pushes what a handler of "enet" events is called with; returns how much that is.
int push_enet_event(lua_State* L, const Message& message);

}  // namespace perilune

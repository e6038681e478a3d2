// perilune and perilune.core: the native part of the API.
//
// Purpose:   one function for each entry of lualib/meta/perilune.lua and core.lua that is
//            native; each appears in Lua at its first use, so that an idle VM stays small.
// Threads:   the worker that runs the VM.
// Ownership: none.
#pragma once

#include <string_view>

#include "core/ids.h"
#include "lua.hpp"
#include "perilune/status.h"

namespace perilune {

// Pushes `perilune.core`: {native = function(name) -> function | nil, ...}.
void push_core_library(lua_State* L);
// Pushes the table perilune.log.
void push_log_library(lua_State* L);

// For functions that the script calls through the library: they raise with the line of the
// script, and call it `function`, "perilune.call".
int misuse(lua_State* L, const char* format, ...) __attribute__((format(printf, 2, 3)));
int argument_error(lua_State* L, const char* function, int index, const char* text);
std::string_view check_text(lua_State* L, const char* function, int index);

// A string at `index`, or raises.
std::string_view check_bytes(lua_State* L, int index);

// What a function returns that fails: nil, message, code. Returns 3.
int push_error(lua_State* L, const Status& status);
// The same, or true.
int push_status(lua_State* L, const Status& status);

// What libraries keep for the running service under `key`, for functions state() and
// set_state(table). Only where it has a handler of events: see core.on_event.
int push_service_state(lua_State* L, const char* key);
int keep_service_state(lua_State* L, const char* key);

// The service that a handle or a name at `index` means; an empty handle when no service has
// that name. Raises when it is neither. `function`: as above, or null.
Handle check_address(lua_State* L, int index, const char* function = nullptr);

// The functions of each part, ending with a null name. Sorted into files by what they do.
extern const luaL_Reg kMessageFunctions[];  // lua_messages.cpp
extern const luaL_Reg kServiceFunctions[];  // lua_services.cpp
extern const luaL_Reg kTimeFunctions[];     // lua_time.cpp

}  // namespace perilune

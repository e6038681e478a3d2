// perilune.crypto: random bytes, digests and encodings, by OpenSSL.
//
// Purpose:   check arguments, compute, push.
// Threads:   the worker that runs the VM of `L`; nothing is shared.
// Ownership: none.
#pragma once

#include "lua.hpp"

namespace perilune {

// Pushes the library's table. lualib/meta/crypto.lua says what is in it.
void push_crypto_library(lua_State* L);

}  // namespace perilune

// perilune.file: files below a node's data folder.
//
// Purpose:   check arguments, do one operation on the file system, push.
// Threads:   the worker that runs the VM of `L`. Calls block it; see lualib/meta/file.lua.
// Ownership: no descriptor outlives a call.
//
// A path is walked folder by folder from the data folder's descriptor and no symbolic link is
// followed, so that nothing outside is reached, also while others move folders about.
#pragma once

#include "lua.hpp"

namespace perilune {

// Pushes the library's table; its functions work below `data_folder`, which is copied and is
// made by the first call that writes. lualib/meta/file.lua says what is in it.
void push_file_library(lua_State* L, const char* data_folder);

}  // namespace perilune

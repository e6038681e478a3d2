// RegistryKey: what the host keeps in the registry of a Lua state.
//
// Purpose:   numbers, since the addresses of variables differ from run to run, and with them when
//            the registry grows: a seeded run has to repeat every allocation. Negative: luaL_ref
//            gives out the others.
// Threads:   constants.
// Ownership: none.
#pragma once

namespace perilune {

enum RegistryKey : int {
    kModulesKey = -16,  // the VM's modules, by name
    kBaseKey,           // light: the table below their environments
    kErrorMetaKey,      // metatable of perilune.CallError
    kSharedDataKey,     // what lua_shared.cpp keeps
};

}  // namespace perilune

// Native modules of a host program, as Lua sees them.
//
// Purpose:   the Lua side of perilune/native_module.h.
// Threads:   the worker that runs the VM.
// Ownership: the opener shares the module, which must outlive all VMs; the host keeps openers.
#pragma once

#include <memory>

#include "lua/host.h"
#include "perilune/native_module.h"

namespace perilune {

// What pushes the table of `module`.
LuaHost::Opener native_module_opener(std::shared_ptr<const NativeModule> module);

}  // namespace perilune

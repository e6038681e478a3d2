// Shared data for Lua: proxies that read a SharedTree.
//
// Purpose:   [], #, pairs and ipairs on an immutable tree that all VMs of a node share. Tables of
//            the tree appear as userdata; `t.a == t.a` holds while one of them is held.
// Threads:   the thread that runs the VM of `L`; the trees themselves are shared by all.
// Ownership: each proxy holds its tree, so an old version lives while a VM holds a piece of it.
//            The VM holds proxies weakly.
#pragma once

#include <memory>

#include "core/shared_tree.h"
#include "lua.hpp"

namespace perilune {

// Pushes the root of a tree: a proxy when it is a table, else the value itself. May raise when
// memory runs out.
void push_shared_tree(lua_State* L, std::shared_ptr<const SharedTree> tree);

// The table that the proxy at a stack index stands for, and its tree, which the proxy keeps
// alive. `tree` is null when there is something else. Never raises.
struct SharedTable {
    const SharedTree* tree = nullptr;
    const SharedTree::Item* item = nullptr;
};
SharedTable shared_table_at(lua_State* L, int index);

}  // namespace perilune

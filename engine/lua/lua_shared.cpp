#include "lua/lua_shared.h"

#include <new>
#include <string_view>
#include <utility>

#include "lua/registry_keys.h"

namespace perilune {
namespace {

// Its address marks proxies.
const char kMark = 0;

struct Proxy {
    const void* mark;  // &kMark
    std::shared_ptr<const SharedTree> tree;
    const SharedTree::Item* item;  // a table of the tree
};

// The functions that get at proxies have as upvalues, so that no registry is searched:
enum Upvalue { kProxies = 1, kMetatable = 2 };

Proxy* proxy_at(lua_State* L, int index) {
    void* block = lua_touserdata(L, index);
    if (block == nullptr || lua_objlen(L, index) != sizeof(Proxy)) return nullptr;
    auto* proxy = static_cast<Proxy*>(block);
    return proxy->mark == &kMark ? proxy : nullptr;
}

const Proxy& check_proxy(lua_State* L, int index) {
    const Proxy* proxy = proxy_at(L, index);
    if (proxy == nullptr) luaL_argerror(L, index, "shared data expected");
    return *proxy;
}

// Names a table of a tree among those of all trees, but for some that are very old: a number, and
// not its address, for a seeded run repeats each growth of the table of proxies.
double key_of(const SharedTree& tree, const SharedTree::Item& item) {
    return (tree.number() % (1u << 20)) * 4294967296.0 + item.node;
}

// Pushes a proxy of a table. At the absolute stack indexes are the table of proxies by key_of()
// (weak values) and the metatable.
void push_proxy(lua_State* L, const std::shared_ptr<const SharedTree>& tree,
                const SharedTree::Item& item, int proxies, int metatable) {
    lua_pushnumber(L, key_of(*tree, item));
    lua_rawget(L, proxies);
    const Proxy* known = proxy_at(L, -1);
    if (known != nullptr && known->item == &item) return;
    lua_pop(L, 1);
    new (lua_newuserdata(L, sizeof(Proxy))) Proxy{&kMark, tree, &item};
    lua_pushvalue(L, metatable);
    lua_setmetatable(L, -2);
    lua_pushnumber(L, key_of(*tree, item));
    lua_pushvalue(L, -2);
    lua_rawset(L, proxies);
}

void push_item(lua_State* L, const Proxy& owner, const SharedTree::Item& item) {
    switch (item.kind) {
        case SharedTree::Kind::nil: lua_pushnil(L); return;
        case SharedTree::Kind::null: lua_pushlightuserdata(L, nullptr); return;
        case SharedTree::Kind::boolean: lua_pushboolean(L, item.boolean); return;
        case SharedTree::Kind::number: lua_pushnumber(L, item.number); return;
        case SharedTree::Kind::string: {
            const std::string_view text = owner.tree->text(item);
            lua_pushlstring(L, text.data(), text.size());
            return;
        }
        case SharedTree::Kind::table:
            push_proxy(L, owner.tree, item, lua_upvalueindex(kProxies),
                       lua_upvalueindex(kMetatable));
            return;
    }
}

std::string_view string_at(lua_State* L, int index) {
    std::size_t size = 0;
    const char* text = lua_tolstring(L, index, &size);
    return {text, size};
}

// proxy[key] -> value
int shared_index(lua_State* L) {
    const Proxy& proxy = check_proxy(L, 1);
    const SharedTree& tree = *proxy.tree;
    const SharedTree::Node& node = tree.node(*proxy.item);
    const SharedTree::Item* found = nullptr;
    switch (lua_type(L, 2)) {
        case LUA_TSTRING: found = tree.find(node, string_at(L, 2)); break;
        case LUA_TNUMBER: found = tree.find(node, lua_tonumber(L, 2)); break;
        case LUA_TBOOLEAN: found = tree.find(node, lua_toboolean(L, 2) != 0); break;
        default: break;
    }
    if (found == nullptr) return 0;
    push_item(L, proxy, *found);
    return 1;
}

// #proxy -> number
int shared_length(lua_State* L) {
    const Proxy& proxy = check_proxy(L, 1);
    lua_pushnumber(L, proxy.tree->node(*proxy.item).array_count);
    return 1;
}

int shared_assign(lua_State* L) { return luaL_error(L, "shared data cannot be changed"); }

// next(proxy, key) -> key, value
int shared_next(lua_State* L) {
    const Proxy& proxy = check_proxy(L, 1);
    const SharedTree& tree = *proxy.tree;
    const SharedTree::Node& node = tree.node(*proxy.item);
    const std::uint32_t end = SharedTree::positions(node);
    std::uint32_t position = 0;
    switch (lua_type(L, 2)) {
        case LUA_TNONE:
        case LUA_TNIL: break;
        case LUA_TSTRING: position = tree.position(node, string_at(L, 2)) + 1; break;
        case LUA_TNUMBER: position = tree.position(node, lua_tonumber(L, 2)) + 1; break;
        case LUA_TBOOLEAN: position = tree.position(node, lua_toboolean(L, 2) != 0) + 1; break;
        default: position = end + 1; break;
    }
    if (position > end) return luaL_argerror(L, 2, "not a key of this shared data");
    for (; position < end; ++position) {
        const SharedTree::Item& value = tree.value_at(node, position);
        if (value.kind == SharedTree::Kind::nil) continue;
        push_item(L, proxy, tree.key_at(node, position));
        push_item(L, proxy, value);
        return 2;
    }
    return 0;
}

// ipairs' step(proxy, index) -> index, value
int shared_next_index(lua_State* L) {
    const Proxy& proxy = check_proxy(L, 1);
    const double index = luaL_checknumber(L, 2) + 1;
    const SharedTree::Item* found = proxy.tree->find(proxy.tree->node(*proxy.item), index);
    if (found == nullptr || found->kind == SharedTree::Kind::nil) return 0;
    lua_pushnumber(L, index);
    push_item(L, proxy, *found);
    return 2;
}

// pairs(proxy) -> next, proxy, nil. The upvalue is `next`.
int shared_pairs(lua_State* L) {
    check_proxy(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    return 3;
}

// ipairs(proxy) -> step, proxy, 0. The upvalue is the step.
int shared_ipairs(lua_State* L) {
    check_proxy(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, 1);
    lua_pushnumber(L, 0);
    return 3;
}

int shared_collect(lua_State* L) {
    Proxy* proxy = proxy_at(L, 1);
    if (proxy == nullptr) return 0;
    proxy->mark = nullptr;
    proxy->~Proxy();
    return 0;
}

// Pushes the table of proxies and the metatable, which are made at the first use in a VM.
void push_support(lua_State* L) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, kSharedDataKey);
    if (!lua_isnil(L, -1)) {
        lua_rawgeti(L, -1, kProxies);
        lua_rawgeti(L, -2, kMetatable);
        lua_remove(L, -3);
        return;
    }
    lua_pop(L, 1);
    lua_newtable(L);
    const int proxies = lua_gettop(L);
    lua_newtable(L);
    const int metatable = proxies + 1;

    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, proxies);

    const auto push_function = [&](lua_CFunction function) {
        lua_pushvalue(L, proxies);
        lua_pushvalue(L, metatable);
        lua_pushcclosure(L, function, 2);
    };
    push_function(shared_index);
    lua_setfield(L, metatable, "__index");
    push_function(shared_next);
    lua_pushcclosure(L, shared_pairs, 1);
    lua_setfield(L, metatable, "__pairs");
    push_function(shared_next_index);
    lua_pushcclosure(L, shared_ipairs, 1);
    lua_setfield(L, metatable, "__ipairs");
    lua_pushcfunction(L, shared_length);
    lua_setfield(L, metatable, "__len");
    lua_pushcfunction(L, shared_assign);
    lua_setfield(L, metatable, "__newindex");
    lua_pushcfunction(L, shared_collect);
    lua_setfield(L, metatable, "__gc");
    lua_pushboolean(L, 0);
    lua_setfield(L, metatable, "__metatable");

    lua_createtable(L, 2, 0);
    lua_pushvalue(L, proxies);
    lua_rawseti(L, -2, kProxies);
    lua_pushvalue(L, metatable);
    lua_rawseti(L, -2, kMetatable);
    lua_rawseti(L, LUA_REGISTRYINDEX, kSharedDataKey);
}

}  // namespace

void push_shared_tree(lua_State* L, std::shared_ptr<const SharedTree> tree) {
    luaL_checkstack(L, 10, "shared data");
    const SharedTree::Item& root = tree->root();
    if (root.kind != SharedTree::Kind::table) {
        push_item(L, Proxy{&kMark, std::move(tree), &root}, root);
        return;
    }
    push_support(L);
    const int metatable = lua_gettop(L);
    push_proxy(L, tree, root, metatable - 1, metatable);
    lua_replace(L, metatable - 1);
    lua_settop(L, metatable - 1);
}

SharedTable shared_table_at(lua_State* L, int index) {
    const Proxy* proxy = proxy_at(L, index);
    if (proxy == nullptr) return {};
    return {proxy->tree.get(), proxy->item};
}

}  // namespace perilune

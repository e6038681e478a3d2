#include "lua/service_packets.h"

#include <algorithm>
#include <cstring>
#include <memory>

namespace perilune {

namespace {

// Puts the value on top of the stack there.
int keep(lua_State* L, int table, int& place) {
    lua_rawseti(L, table, place);
    return place++;
}

bool flag(lua_State* L, int command, const char* name) {
    lua_getfield(L, command, name);
    const bool value = lua_toboolean(L, -1) != 0;
    lua_pop(L, 1);
    return value;
}

// Of the codec `name` of a command, if it has one: itself and the names of its fields.
void read_fields(lua_State* L, int command, const char* name, int table, int& place,
                 PacketFields& fields, int& names) {
    lua_getfield(L, command, name);
    fields.codec = PacketCodec::at(L, -1);
    if (fields.codec == nullptr) {
        lua_pop(L, 1);
        return;
    }
    PacketCodec::push_names(L, lua_gettop(L));
    names = keep(L, table, place);
    keep(L, table, place);
}

}  // namespace

ServicePackets* ServicePackets::create(lua_State* L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    for (int place = kGateways; place < kFirstCommand; ++place) {
        luaL_checktype(L, 1 + place, place <= kForms ? LUA_TTABLE : LUA_TFUNCTION);
    }
    auto packets = std::make_unique<ServicePackets>();
    lua_settop(L, kFirstCommand);
    lua_newtable(L);
    const int table = lua_gettop(L);
    for (int place = kGateways; place < kFirstCommand; ++place) {
        lua_pushvalue(L, 1 + place);
        lua_rawseti(L, table, place);
    }
    int place = kFirstCommand;
    const int count = static_cast<int>(lua_objlen(L, 1));
    for (int i = 1; i <= count; ++i) {
        lua_rawgeti(L, 1, i);
        luaL_checktype(L, -1, LUA_TTABLE);
        packets->read_command(L, lua_gettop(L), table, place);
        lua_settop(L, table);
    }
    packets->table_ = luaL_ref(L, LUA_REGISTRYINDEX);
    return packets.release();
}

void ServicePackets::release(lua_State* L) {
    luaL_unref(L, LUA_REGISTRYINDEX, table_);
    table_ = LUA_NOREF;
    commands_.clear();
}

void ServicePackets::read_command(lua_State* L, int command, int table, int& place) {
    lua_getfield(L, command, "stype");
    lua_getfield(L, command, "ctype");
    const int stype = static_cast<int>(luaL_checkinteger(L, -2));
    const int ctype = static_cast<int>(luaL_checkinteger(L, -1));
    lua_pop(L, 2);
    Command& known = commands_[number(stype, ctype)];
    lua_getfield(L, command, "name");
    const char* name = luaL_checkstring(L, -1);
    std::memcpy(known.name, name, std::min(std::strlen(name), sizeof known.name - 1));
    lua_pop(L, 1);
    lua_getfield(L, command, "key");
    luaL_checkstring(L, -1);
    known.key = keep(L, table, place);
    known.is_push = flag(L, command, "is_push");
    known.request.takes_nothing = flag(L, command, "takes_nothing");
    read_fields(L, command, "request", table, place, known.request, known.request_names);
    read_fields(L, command, "reply", table, place, known.reply, known.reply_names);
}

}  // namespace perilune

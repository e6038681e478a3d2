// ServicePackets: which packets of players a service takes, and by what.
//
// Purpose:   the commands of service/protocol.lua by their numbers, as the host reads requests and
//            writes replies; lualib/perilune/client.lua declares them and does what is unusual.
// Threads:   the worker that runs the service's VM.
// Ownership: its Service owns it; all Lua values are in one table of the registry.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "lua/packet_codec.h"

namespace perilune {

class ServicePackets {
  public:
    struct Command {
        PacketFields request;  // `names` is unset: push_names()
        PacketFields reply;
        bool is_push = false;
        char name[24] = {};  // "talkroom.enter", for reports
        // Places in the table.
        int key = 0;
        int request_names = 0;
        int reply_names = 0;
    };
    // What else is in the table.
    enum Place : int {
        kGateways = 1,  // by uid: the handle of the gateway that the player came through
        kForms,         // by uid: kBufForm of those who use it
        kRefuse,        // function(packet, key, code, message, request_id)
        kFailed,        // function(stype, ctype, uid, form, key, request_id, text)
        kGone,          // function(uid): a gateway says so
        kMoved,         // function(handler, uid, body, form, key): by another gateway before
        kFirstCommand,
    };

    // One that takes nothing.
    ServicePackets() = default;
    // Reads the arguments of core.serve(): a list of perilune.Command, and what has a Place, in
    // that order. Raises for others.
    static ServicePackets* create(lua_State* L);
    void release(lua_State* L);

    const Command* find(const PacketHeader& header) const {
        const auto found = commands_.find(number(header.stype, header.ctype));
        return found == commands_.end() ? nullptr : &found->second;
    }
    // Pushes the table, or nil where nothing is taken.
    void push_table(lua_State* L) const { lua_rawgeti(L, LUA_REGISTRYINDEX, table_); }

  private:
    static std::uint32_t number(int stype, int ctype) {
        return std::uint32_t{static_cast<std::uint16_t>(stype)} << 16 |
               static_cast<std::uint16_t>(ctype);
    }
    void read_command(lua_State* L, int command, int table, int& place);

    std::unordered_map<std::uint32_t, Command> commands_;
    int table_ = LUA_NOREF;
};

}  // namespace perilune

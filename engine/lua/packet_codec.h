// PacketCodec: the fields of a message, compiled.
//
// Purpose:   Lua values to BUF (lua/packet_buf.cpp) and JSON (lua/packet_json.cpp) and back,
// checked
//            field by field. The bodies around them are lua/packet_body.
// Threads:   the thread that runs the VM of `L`.
// Ownership: a codec is a userdata of its VM; nothing is kept between calls.
//
// All that comes in is hostile: every read is bounded, nothing is allocated ahead of the bytes
// that have arrived, bytes left over are refused. A failure is a text that names the field:
// "talkroom.enter: field uname is not a string but nil".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/payload.h"
#include "game/packet.h"
#include "lua.hpp"

namespace perilune {

class JsonCursor;

class PacketCodec {
  public:
    // Makes their metatable, for codec:encode() and so on. Leaves it on the stack.
    static void push_metatable(lua_State* L);
    // Compiles the description on top of the stack and puts the codec in its place. Raises for a
    // wrong one.
    static void compile(lua_State* L, std::string_view title);
    // The codec at `index`, or null.
    static const PacketCodec* at(lua_State* L, int index);
    // Pushes the names of the fields of the codec at `index`: strings, by their number.
    static void push_names(lua_State* L, int index) { lua_getfenv(L, index); }

    enum class Type : std::uint8_t {
        i8,
        i16,
        i32,
        i64,
        u8,
        u16,
        u32,
        u64,
        f32,
        f64,
        boolean,
        string,
        bytes,
        list,
        record
    };
    struct Node {
        Type type = Type::record;
        bool is_optional = false;
        std::uint16_t name_size = 0;    // of a field
        std::uint32_t name_at = 0;      // in the codec's names
        std::uint32_t first_child = 0;  // of a list its item, of a record its fields
        std::uint32_t child_count = 0;
        std::uint32_t min_size = 0;  // bytes that its BUF form has at least
    };

    const Node* nodes() const { return reinterpret_cast<const Node*>(this + 1); }
    const Node& root() const { return nodes()[0]; }
    const Node* children(const Node& node) const { return nodes() + node.first_child; }
    int number(const Node& node) const { return static_cast<int>(&node - nodes()); }
    const char* title() const { return names() + title_at_; }
    std::string_view name(const Node& field) const {
        return {names() + field.name_at, field.name_size};
    }

  private:
    friend class PacketCompiler;
    const char* names() const { return reinterpret_cast<const char*>(nodes() + node_count_); }

    // In one block with it, so that nothing has to be freed: its nodes, the title, their names.
    std::uint32_t node_count_;
    std::uint32_t title_at_;
};

// By PacketCodec::Type; lists and records have no name.
inline constexpr std::array<std::string_view, 13> kPacketTypes = {
    "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64", "bool", "string", "bytes"};

// A message's fields for the functions below. Without a codec nothing is declared: a BUF body is
// empty, the value of a JSON body nil.
struct PacketFields {
    const PacketCodec* codec = nullptr;
    int names = 0;               // stack index of what push_names() pushed
    bool takes_nothing = false;  // all fields may be left out, and so may the value
};

enum class BodyFault : std::uint8_t {
    none,
    malformed,       // nobody who follows the protocol sends this
    invalid_params,  // JSON that doesn't fit the fields
};

// Room on the stack for a walker: nesting, a key and a value for each level, and what an error
// takes.
inline constexpr int kPacketStack = 84;

// Appends the form of the value on top of the stack, which stays there. False: `fault` says why.
bool write_buf(lua_State* L, const PacketFields& fields, PayloadWriter& out, std::string& fault);
bool write_json(lua_State* L, const PacketFields& fields, PayloadWriter& out, std::string& fault);
// Pushes the value. After a failure the stack is unspecified above what was there.
bool read_buf(lua_State* L, const PacketFields& fields, std::string_view bytes, std::string& fault);
BodyFault read_json(lua_State* L, const PacketFields& fields, std::string_view text,
                    std::string& fault);
// The same of JSON that has been checked already: the value that `json` is at.
bool read_checked_json(lua_State* L, const PacketFields& fields, JsonCursor json,
                       std::string& fault);

}  // namespace perilune

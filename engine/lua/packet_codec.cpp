#include "lua/packet_codec.h"

#include <array>
#include <cstring>
#include <vector>

namespace perilune {

// DESIGN
// A message is compiled once into a tree of nodes. Four walkers follow the tree: BufWriter and
// JsonWriter read a Lua value and append bytes, BufReader and JsonReader push a new Lua value. A
// walker that fails says why once and builds the path to the field while it returns.

namespace {

constexpr int kMaxDepth = 16;
constexpr std::size_t kMaxNodes = 4096;
constexpr const char* kCodecType = "perilune.packet.codec";

static_assert(kPacketStack >= 4 * kMaxDepth + 20);

std::string_view string_at(lua_State* L, int index) {
    std::size_t size = 0;
    const char* text = lua_tolstring(L, index, &size);
    return {text, size};
}

}  // namespace

class PacketCompiler {
  public:
    PacketCompiler(lua_State* state, std::string_view title) : L(state), names_(title) {
        names_ += '\0';
    }

    // Pops the description and pushes the codec.
    void compile() {
        nodes_.resize(1);
        node(0, 0);
        const std::size_t size = nodes_.size() * sizeof(PacketCodec::Node);
        auto* codec = static_cast<PacketCodec*>(
            lua_newuserdata(L, sizeof(PacketCodec) + size + names_.size()));
        codec->node_count_ = static_cast<std::uint32_t>(nodes_.size());
        codec->title_at_ = 0;
        char* const bytes = reinterpret_cast<char*>(codec + 1);
        std::memcpy(bytes, nodes_.data(), size);
        std::memcpy(bytes + size, names_.data(), names_.size());
        luaL_getmetatable(L, kCodecType);
        lua_setmetatable(L, -2);
        lua_createtable(L, static_cast<int>(nodes_.size()), 0);
        for (std::size_t i = 0; i < nodes_.size(); ++i) {
            const std::string_view name = codec->name(nodes_[i]);
            lua_pushlstring(L, name.data(), name.size());
            lua_rawseti(L, -2, static_cast<int>(i));
        }
        lua_setfenv(L, -2);
    }

  private:
    [[gnu::cold, gnu::noinline]] void raise(const char* text) {
        luaL_error(L, "%s: %s", names_.c_str(), text);
    }

    // Pops the description. Nodes are named by position since the vector grows.
    void node(std::size_t at, int depth) {
        if (depth > kMaxDepth) raise("nested too deep");
        luaL_checkstack(L, 8, "description of a message");
        if (lua_type(L, -1) == LUA_TSTRING) {
            primitive(at);
        } else if (lua_istable(L, -1)) {
            lua_getfield(L, -1, "list");
            if (lua_isnil(L, -1)) {
                lua_pop(L, 1);
                record(at, depth);
            } else {
                list(at, depth);
            }
        } else {
            raise("a type is a name, a list of fields or {list = type}");
        }
        lua_pop(L, 1);
    }

    void primitive(std::size_t at) {
        constexpr std::array<std::uint8_t, 13> kSizes = {1, 2, 4, 8, 1, 2, 4, 8, 4, 8, 1, 2, 4};
        const std::string_view name = string_at(L, -1);
        for (std::size_t i = 0; i < kPacketTypes.size(); ++i) {
            if (kPacketTypes[i] != name) continue;
            nodes_[at].type = static_cast<PacketCodec::Type>(i);
            nodes_[at].min_size = kSizes[i];
            return;
        }
        luaL_error(L, "%s: unknown type \"%s\"", names_.c_str(), lua_tostring(L, -1));
    }

    // Pops the description of the item.
    void list(std::size_t at, int depth) {
        const std::size_t item = add(at, 1);
        nodes_[at].type = PacketCodec::Type::list;
        nodes_[at].min_size = 2;
        node(item, depth + 1);
        if (nodes_[item].min_size == 0) raise("a list of a message without fields");
    }

    void record(std::size_t at, int depth) {
        const std::size_t count = lua_objlen(L, -1);
        const std::size_t first = add(at, count);
        std::uint32_t size = 0;
        for (std::size_t i = 0; i < count; ++i) {
            lua_rawgeti(L, -1, static_cast<int>(i + 1));
            field(first + i, depth);
            size += nodes_[first + i].min_size;
        }
        nodes_[at].min_size = size;
    }

    // Pops the field {name, type, optional}.
    void field(std::size_t at, int depth) {
        if (!lua_istable(L, -1)) raise("a field is a table");
        lua_rawgeti(L, -1, 1);
        if (lua_type(L, -1) != LUA_TSTRING) raise("a field has no name");
        const std::string_view name = string_at(L, -1);
        if (name.empty() || name.size() > 255) raise("the name of a field has 1 to 255 bytes");
        nodes_[at].name_at = static_cast<std::uint32_t>(names_.size());
        nodes_[at].name_size = static_cast<std::uint16_t>(name.size());
        names_ += name;
        lua_rawgeti(L, -2, 3);
        nodes_[at].is_optional = lua_toboolean(L, -1) != 0;
        lua_rawgeti(L, -3, 2);
        node(at, depth + 1);
        lua_pop(L, 3);
    }

    std::size_t add(std::size_t parent, std::size_t count) {
        const std::size_t first = nodes_.size();
        if (count > kMaxNodes || first + count > kMaxNodes) raise("too many fields");
        nodes_.resize(first + count);
        nodes_[parent].first_child = static_cast<std::uint32_t>(first);
        nodes_[parent].child_count = static_cast<std::uint32_t>(count);
        return first;
    }

    lua_State* L;
    std::vector<PacketCodec::Node> nodes_;
    std::string names_;  // the title and its zero, then names of fields
};

void PacketCodec::push_metatable(lua_State* L) { luaL_newmetatable(L, kCodecType); }

void PacketCodec::compile(lua_State* L, std::string_view title) {
    PacketCompiler(L, title).compile();
}

const PacketCodec* PacketCodec::at(lua_State* L, int index) {
    void* found = lua_touserdata(L, index);
    if (found == nullptr || lua_getmetatable(L, index) == 0) return nullptr;
    luaL_getmetatable(L, kCodecType);
    const bool is_codec = lua_rawequal(L, -1, -2) != 0;
    lua_pop(L, 2);
    return is_codec ? static_cast<const PacketCodec*>(found) : nullptr;
}

}  // namespace perilune

#include "lua/packet_body.h"

#include <cstring>

#include "core/utf8.h"
#include "game/json.h"
#include "lua/packet_walker.h"

namespace perilune {

namespace {

// What {"0": value, "1": request_id} has.
struct Envelope {
    JsonCursor value{""};
    bool has_value = false;  // and it isn't null
    std::uint64_t request_id = 0;
};

// The text of a JSON body, which is UTF-8 of exactly the length that it announces.
const char* unwrap(std::string_view body, std::string_view& text) {
    if (body.size() < 2) return "is cut off";
    const std::size_t size = load_little<std::uint16_t>(body.data());
    text = body.substr(2);
    if (text.size() < size) return "is cut off";
    if (text.size() > size) return "is longer than it says";
    return is_utf8(text) ? nullptr : "is not UTF-8";
}

const char* read_id(JsonCursor& json, std::uint64_t& id) {
    id = 0;
    const char first = json.peek();
    if (first == 'n') {
        json.skip();
        return nullptr;
    }
    const bool is_number = first == '-' || (first >= '0' && first <= '9');
    const double number = is_number ? json.number() : 0;
    if (!is_integer(number) || number < 1 || number > kMaxExact) {
        return "has a request_id that is no positive integer";
    }
    id = static_cast<std::uint64_t>(number);
    return nullptr;
}

// Null, or what is wrong with the body.
const char* read_envelope(std::string_view body, Envelope& envelope) {
    std::string_view text;
    if (const char* why = unwrap(body, text)) return why;
    JsonCursor json(text);
    if (!json.check()) return json.why();
    if (json.peek() != '{') return "is no object";
    std::string scratch;
    json.enter();
    for (bool first = true; json.next('}', first); first = false) {
        const std::string_view key = json.key(scratch);
        if (key == "1") {
            if (const char* why = read_id(json, envelope.request_id)) return why;
            continue;
        }
        if (key == "0") {
            envelope.has_value = json.peek() != 'n';
            envelope.value = json;
        }
        json.skip();
    }
    return nullptr;
}

BodyFault read_json_body(lua_State* L, const PacketFields& fields, std::string_view body,
                         std::uint64_t& request_id, std::string& fault) {
    Envelope envelope;
    if (const char* why = read_envelope(body, envelope)) {
        fault = std::string("JSON body ") + why;
        return BodyFault::malformed;
    }
    request_id = envelope.request_id;
    if (fields.codec == nullptr) {
        lua_pushnil(L);
        return BodyFault::none;
    }
    if (!envelope.has_value) envelope.value = JsonCursor(fields.takes_nothing ? "{}" : "null");
    return read_checked_json(L, fields, envelope.value, fault) ? BodyFault::none
                                                               : BodyFault::invalid_params;
}

}  // namespace

bool write_body(lua_State* L, const PacketFields& fields, std::int16_t form,
                std::uint64_t request_id, PayloadWriter& out, std::string& fault) {
    if (form == kBufForm) return fields.codec == nullptr || write_buf(L, fields, out, fault);
    const std::size_t begin = out.size();
    append(out, std::uint16_t{0});
    append(out, std::string_view("{\"0\":"));
    if (fields.codec == nullptr) {
        append(out, std::string_view("null"));
    } else if (!write_json(L, fields, out, fault)) {
        return false;
    }
    if (request_id != 0) append(out, ",\"1\":" + std::to_string(request_id));
    append_byte(out, '}');
    const std::size_t size = out.size() - begin;
    if (size > kMaxPacketBody) {
        fault = "the body is larger than " + std::to_string(kMaxPacketBody) + " bytes";
        return false;
    }
    const auto length = static_cast<std::uint16_t>(size - sizeof(std::uint16_t));
    std::memcpy(out.at(begin), &length, sizeof length);
    return true;
}

BodyFault read_body(lua_State* L, const PacketFields& fields, std::int16_t form,
                    std::string_view body, std::uint64_t& request_id, std::string& fault) {
    request_id = 0;
    if (form == kJsonForm) return read_json_body(L, fields, body, request_id, fault);
    if (form != kBufForm) {
        fault = "proto_type " + std::to_string(form) + " is neither JSON nor BUF";
        return BodyFault::malformed;
    }
    if (fields.codec != nullptr) {
        return read_buf(L, fields, body, fault) ? BodyFault::none : BodyFault::malformed;
    }
    lua_pushnil(L);
    if (body.empty()) return BodyFault::none;
    fault = "a BUF body without declared fields is empty";
    return BodyFault::malformed;
}

std::uint64_t read_request_id(std::string_view body) {
    Envelope envelope;
    return read_envelope(body, envelope) == nullptr ? envelope.request_id : 0;
}

}  // namespace perilune

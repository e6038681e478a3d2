// Codec: how values travel between services, and between nodes.
//
// Purpose:   a compact, self-describing binary form of nil, booleans, numbers, strings and
//            tables. Here are the form itself and its use by C++ programs; lua/lua_codec.h reads
//            and writes the same bytes straight from and to a Lua stack.
// Threads:   functions without state.
// Ownership: nothing is kept; a std::string_view that is handed out points into the input.
//
// A payload is a sequence of values and nothing else; it ends where its last value ends. All
// numbers are little-endian. A value is a tag byte and what the tag says:
//
//   0x00..0x7f  the integer 0..127              0xd4  integer, 1 byte, signed
//   0x80..0xbf  a string of 0..63 bytes         0xd5  integer, 2 bytes, signed
//   0xc0..0xcf  the integer -16..-1             0xd6  integer, 4 bytes, signed
//   0xd0  nil                                   0xd7  number, 8 bytes, IEEE 754
//   0xd1  false                                 0xd8  string, 1 byte of length
//   0xd2  true                                  0xd9  string, 4 bytes of length
//   0xd3  null (Lua's NULL light userdata)      0xda  table, counts of 1 byte each
//                                               0xdb  table, counts of 4 bytes each
//
// Other tags are errors. A number takes the shortest form that keeps every bit (-0.0 and NaN
// are 0xd7); integers beyond 32 bits are 0xd7 too, which is exact to 2^53. A table is the count
// n of its array part, the count m of its other entries, n values for the keys 1..n (nil stands
// for a hole), then m pairs of key and value. A key is a number that isn't NaN, a string or a
// boolean. Encoders never write a key twice; for a decoder the last one wins.
//
// Whatever a payload declares, a decoder first checks that the bytes left can hold it, and it
// counts what all the tables around still need: a value takes at least one byte, so what is
// allocated ahead is bounded by the payload's own size.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/payload.h"
#include "perilune/status.h"
#include "perilune/value.h"

namespace perilune {

inline constexpr std::size_t kMaxPayload = std::size_t{16} << 20;  // bytes
inline constexpr int kMaxDepth = 64;  // tables inside each other, the outermost counted

// Appends `values` to `out`. Fails with `too_large` over kMaxDepth or when `out` would as a whole
// be over kMaxPayload, and with `unsupported` for a key that can't be one; `out` then holds an
// incomplete payload. An entry of a table whose value is nil is left out, as Lua would.
Status encode(const Values& values, PayloadWriter& out);

// The values of a payload. `null` becomes nil. Fails with `invalid` when the bytes are no
// payload and with `too_large` over kMaxDepth or kMaxPayload. An entry of a table takes 80 bytes
// and may be one in the payload, so who decodes for strangers bounds `size` first.
Result<Values> decode(const char* data, std::size_t size);

// The first value of a payload when that is a string (the name of a command): its bytes, which
// stay in `data`, and how many bytes of the payload it took. False, and nothing is written,
// when the first value is something else or incomplete.
bool read_string(const char* data, std::size_t size, std::string_view* text, std::size_t* consumed);

// The parts that every encoder and decoder is made of. Inline: they are the hottest code here.
namespace wire {

static_assert(std::endian::native == std::endian::little);

enum Tag : unsigned char {
    kShortString = 0x80,
    kNegative = 0xc0,
    kNil = 0xd0,
    kFalse = 0xd1,
    kTrue = 0xd2,
    kNull = 0xd3,
    kInteger8 = 0xd4,
    kInteger16 = 0xd5,
    kInteger32 = 0xd6,
    kDouble = 0xd7,
    kString8 = 0xd8,
    kString32 = 0xd9,
    kTable8 = 0xda,
    kTable32 = 0xdb,
};

inline constexpr std::size_t kMaxShortString = kNegative - kShortString - 1;
inline constexpr std::size_t kSmallTableHeader = 3;
inline constexpr std::size_t kLargeTableHeader = 9;

template <typename T>
inline void store(char* place, T value) {
    std::memcpy(place, &value, sizeof value);
}

template <typename T>
inline T load(const char* place) {
    T value;
    std::memcpy(&value, place, sizeof value);
    return value;
}

inline void write_tag(PayloadWriter& out, unsigned char tag) { out.append_byte(tag); }

inline void write_boolean(PayloadWriter& out, bool value) {
    out.append_byte(value ? kTrue : kFalse);
}

// Which form an integer takes, by the number of its bits without the sign: tag and size. A table
// and one store, since what is sent makes branches hard to predict.
struct IntegerForm {
    std::uint8_t tag;
    std::uint8_t size;
};
inline constexpr std::array<IntegerForm, 32> kIntegerForms = [] {
    std::array<IntegerForm, 32> forms{};
    for (int bits = 0; bits < 32; ++bits) {
        forms[static_cast<std::size_t>(bits)] = bits < 8    ? IntegerForm{kInteger8, 2}
                                                : bits < 16 ? IntegerForm{kInteger16, 3}
                                                            : IntegerForm{kInteger32, 5};
    }
    return forms;
}();

inline void write_number(PayloadWriter& out, double number) {
    char* room = out.reserve(9);
    if (number >= -2147483648.0 && number <= 2147483647.0) [[likely]] {
        const auto integer = static_cast<std::int32_t>(number);
        // Compared as bits, so that -0.0 isn't taken for 0.
        if (std::bit_cast<std::uint64_t>(static_cast<double>(integer)) ==
            std::bit_cast<std::uint64_t>(number)) [[likely]] {
            if (integer >= -16 && integer <= 127) {
                *room = static_cast<char>(integer >= 0 ? integer : kNegative + 16 + integer);
                out.advance(1);
                return;
            }
            const auto magnitude = static_cast<std::uint32_t>(integer < 0 ? ~integer : integer);
            const int bits = std::bit_width(magnitude) + 1;
            const IntegerForm form = kIntegerForms[static_cast<std::size_t>(bits - 1)];
            *room = static_cast<char>(form.tag);
            store(room + 1, integer);
            out.advance(form.size);
            return;
        }
    }
    store(room, kDouble);
    store(room + 1, number);
    out.advance(9);
}

// Few bytes, without a call.
inline void copy_short(char* to, const char* from, std::size_t size) {
    if (size >= 8) {
        if (size > 16) {
            std::memcpy(to, from, size);
            return;
        }
        const auto first = load<std::uint64_t>(from);
        const auto last = load<std::uint64_t>(from + size - 8);
        store(to, first);
        store(to + size - 8, last);
    } else if (size >= 4) {
        const auto first = load<std::uint32_t>(from);
        const auto last = load<std::uint32_t>(from + size - 4);
        store(to, first);
        store(to + size - 4, last);
    } else if (size != 0) {
        to[0] = from[0];
        to[size / 2] = from[size / 2];
        to[size - 1] = from[size - 1];
    }
}

// The caller has checked that `size` is at most kMaxPayload.
inline void write_string(PayloadWriter& out, const char* text, std::size_t size) {
    if (size <= kMaxShortString) [[likely]] {
        char* room = out.reserve(1 + size);
        *room = static_cast<char>(kShortString + size);
        copy_short(room + 1, text, size);
        out.advance(1 + size);
        return;
    }
    char* room = out.reserve(5 + size);
    std::size_t header = 5;
    if (size <= 255) {
        store(room, kString8);
        store(room + 1, static_cast<std::uint8_t>(size));
        header = 2;
    } else {
        store(room, kString32);
        store(room + 1, static_cast<std::uint32_t>(size));
    }
    std::memcpy(room + header, text, size);
    out.advance(header + size);
}

inline void write_string(PayloadWriter& out, std::string_view text) {
    write_string(out, text.data(), text.size());
}

// Leaves room for the header of a table whose counts are known only at its end. Returns the
// offset that end_table() wants. `large`: one of the counts will be over 255.
inline std::size_t begin_table(PayloadWriter& out, bool large = false) {
    const std::size_t offset = out.size();
    const std::size_t header = large ? kLargeTableHeader : kSmallTableHeader;
    *out.reserve(header) = static_cast<char>(large ? kTable32 : kTable8);
    out.advance(header);
    return offset;
}

// Makes the header of a table large, in case it isn't. To be called when a count becomes 256, so
// that little has to be moved.
void enlarge_table(PayloadWriter& out, std::size_t offset);

// Fills in the counts.
inline void end_table(PayloadWriter& out, std::size_t offset, std::uint32_t array_count,
                      std::uint32_t hash_count) {
    char* header = out.at(offset);
    if (static_cast<unsigned char>(*header) == kTable8) [[likely]] {
        header[1] = static_cast<char>(array_count);
        header[2] = static_cast<char>(hash_count);
    } else {
        store(header + 1, array_count);
        store(header + 5, hash_count);
    }
}

// Of a string or table whose tag has been read, what the header says; `cursor` moves behind the
// header. False when fewer bytes are left before `end` than it needs.
inline bool read_string_size(unsigned char tag, const char*& cursor, const char* end,
                             std::size_t& size) {
    if (tag < kNegative) {
        size = tag - kShortString;
    } else if (tag == kString8) {
        if (end - cursor < 1) return false;
        size = load<std::uint8_t>(cursor);
        cursor += 1;
    } else {
        if (end - cursor < 4) return false;
        size = load<std::uint32_t>(cursor);
        cursor += 4;
    }
    return static_cast<std::size_t>(end - cursor) >= size;
}

struct TableSize {
    std::uint32_t array_count = 0;
    std::uint32_t hash_count = 0;
    // How many values follow, and so how many bytes at least.
    std::size_t values() const { return array_count + std::size_t{2} * hash_count; }
};

inline bool read_table_size(unsigned char tag, const char*& cursor, const char* end,
                            TableSize& size) {
    if (tag == kTable8) {
        if (end - cursor < 2) return false;
        size = {load<std::uint8_t>(cursor), load<std::uint8_t>(cursor + 1)};
        cursor += 2;
    } else {
        if (end - cursor < 8) return false;
        size = {load<std::uint32_t>(cursor), load<std::uint32_t>(cursor + 4)};
        cursor += 8;
    }
    return static_cast<std::size_t>(end - cursor) >= size.values();
}

inline bool is_string(unsigned char tag) {
    return (tag >= kShortString && tag < kNegative) || tag == kString8 || tag == kString32;
}
inline bool is_table(unsigned char tag) { return tag == kTable8 || tag == kTable32; }

// Reads the number whose tag has been read: 1, or 0 when it is cut off, or -1 when `tag` isn't
// that of a number.
inline int read_number(unsigned char tag, const char*& cursor, const char* end, double& number) {
    if (tag < kShortString) {
        number = tag;
        return 1;
    }
    if (tag >= kNegative && tag < kNil) {
        number = static_cast<int>(tag) - kNegative - 16;
        return 1;
    }
    switch (tag) {
        case kInteger8:
            if (end - cursor < 1) return 0;
            number = load<std::int8_t>(cursor);
            cursor += 1;
            return 1;
        case kInteger16:
            if (end - cursor < 2) return 0;
            number = load<std::int16_t>(cursor);
            cursor += 2;
            return 1;
        case kInteger32:
            if (end - cursor < 4) return 0;
            number = load<std::int32_t>(cursor);
            cursor += 4;
            return 1;
        case kDouble:
            if (end - cursor < 8) return 0;
            number = load<double>(cursor);
            cursor += 8;
            return 1;
        default: return -1;
    }
}

// Why a payload can't be decoded.
enum class Fault : unsigned char {
    none,
    cut_off,      // it ends inside a value, or declares more than it holds
    unknown_tag,  // a byte that begins no value
    bad_key,      // nil, NaN, null or a table as a key
    too_deep,     // over kMaxDepth
    too_large,    // over kMaxPayload
    too_many,     // more values than a Lua stack holds
};
Status fault_status(Fault fault, std::size_t offset);

}  // namespace wire
}  // namespace perilune

#include "core/codec.h"

#include <cmath>

namespace perilune {
namespace {

using namespace wire;

// Writes Values. After a failure `status` says what happened.
struct ValueEncoder {
    PayloadWriter& out;
    Status status;

    bool too_large() {
        status = Status::error(StatusCode::too_large, "the message is larger than %zu MB",
                               kMaxPayload >> 20);
        return false;
    }

    bool string(const std::string& text) {
        if (out.size() + text.size() > kMaxPayload) return too_large();
        write_string(out, text);
        return true;
    }

    bool key(const Value& key) {
        if (key.is_string()) return string(key.string());
        if (key.is_number() && !std::isnan(key.number())) {
            write_number(out, key.number());
            return true;
        }
        if (key.is_boolean()) {
            write_boolean(out, key.boolean());
            return true;
        }
        status = Status::error(StatusCode::unsupported,
                               "a key of a table must be a string, number (not NaN) or boolean");
        return false;
    }

    bool table(const Table& table, int depth) {
        if (depth > kMaxDepth) {
            status =
                Status::error(StatusCode::too_large, "tables are nested deeper than %d", kMaxDepth);
            return false;
        }
        std::size_t array_count = 0;
        while (array_count < table.size() && table[array_count].first.is_number() &&
               table[array_count].first.number() == static_cast<double>(array_count + 1)) {
            ++array_count;
        }
        const std::size_t offset = begin_table(out, table.size() > 255);
        std::uint32_t hash_count = 0;
        for (std::size_t i = 0; i < table.size(); ++i) {
            const auto& [entry_key, entry_value] = table[i];
            if (i >= array_count) {
                if (entry_value.is_nil()) continue;
                if (!key(entry_key)) return false;
                ++hash_count;
            }
            if (!value(entry_value, depth)) return false;
        }
        end_table(out, offset, static_cast<std::uint32_t>(array_count), hash_count);
        return true;
    }

    bool value(const Value& item, int depth) {
        if (out.size() >= kMaxPayload) return too_large();
        if (item.is_string()) return string(item.string());
        if (item.is_table()) return table(item.table(), depth + 1);
        if (item.is_number()) {
            write_number(out, item.number());
        } else if (item.is_boolean()) {
            write_boolean(out, item.boolean());
        } else {
            write_tag(out, kNil);
        }
        return true;
    }
};

// Reads Values. A pointer `end` given to a function leaves out one byte for each value that the
// tables around still need.
struct ValueDecoder {
    const char* cursor;
    Fault fault = Fault::none;

    bool fail(Fault why) {
        fault = why;
        return false;
    }

    bool value(const char* end, int depth, bool is_key, Value& item) {
        if (cursor >= end) return fail(Fault::cut_off);
        const auto tag = static_cast<unsigned char>(*cursor++);
        double number = 0;
        const int found = read_number(tag, cursor, end, number);
        if (found == 0) return fail(Fault::cut_off);
        if (found == 1) {
            if (is_key && std::isnan(number)) return fail(Fault::bad_key);
            item = number;
            return true;
        }
        if (is_string(tag)) {
            std::size_t size = 0;
            if (!read_string_size(tag, cursor, end, size)) return fail(Fault::cut_off);
            item = std::string_view(cursor, size);
            cursor += size;
            return true;
        }
        if (tag == kTrue || tag == kFalse) {
            item = tag == kTrue;
            return true;
        }
        if (tag > kTable32) return fail(Fault::unknown_tag);
        if (is_key) return fail(Fault::bad_key);
        if (is_table(tag)) return table(tag, end, depth + 1, item);
        item = nullptr;
        return true;
    }

    bool table(unsigned char tag, const char* end, int depth, Value& item) {
        if (depth > kMaxDepth) return fail(Fault::too_deep);
        TableSize size;
        if (!read_table_size(tag, cursor, end, size)) return fail(Fault::cut_off);
        std::size_t owed = size.values();
        Table entries;
        // An entry is 80 bytes here and may be two in the payload, so room grows with what is read.
        entries.reserve(std::min<std::size_t>(size.array_count + size.hash_count, 1024));
        for (std::uint32_t i = 1; i <= size.array_count; ++i) {
            auto& entry = entries.emplace_back(i, nullptr);
            if (!value(end - --owed, depth, false, entry.second)) return false;
        }
        for (std::uint32_t i = 0; i < size.hash_count; ++i) {
            auto& entry = entries.emplace_back();
            if (!value(end - --owed, depth, true, entry.first)) return false;
            if (!value(end - --owed, depth, false, entry.second)) return false;
        }
        item = Value(std::move(entries));
        return true;
    }
};

}  // namespace

Status encode(const Values& values, PayloadWriter& out) {
    ValueEncoder encoder{out, {}};
    for (const Value& item : values) {
        if (!encoder.value(item, 0)) return encoder.status;
    }
    if (out.size() > kMaxPayload) encoder.too_large();
    return encoder.status;
}

Result<Values> decode(const char* data, std::size_t size) {
    if (size > kMaxPayload) return fault_status(Fault::too_large, size);
    Values values;
    ValueDecoder decoder{data};
    const char* end = data + size;
    while (decoder.cursor != end) {
        Value& item = values.emplace_back();
        if (!decoder.value(end, 0, false, item)) {
            return fault_status(decoder.fault, static_cast<std::size_t>(decoder.cursor - data));
        }
    }
    return values;
}

bool read_string(const char* data, std::size_t size, std::string_view* text,
                 std::size_t* consumed) {
    if (size == 0) return false;
    const auto tag = static_cast<unsigned char>(*data);
    if (!is_string(tag)) return false;
    const char* cursor = data + 1;
    std::size_t length = 0;
    if (!read_string_size(tag, cursor, data + size, length)) return false;
    *text = std::string_view(cursor, length);
    *consumed = static_cast<std::size_t>(cursor - data) + length;
    return true;
}

namespace wire {

void enlarge_table(PayloadWriter& out, std::size_t offset) {
    if (static_cast<unsigned char>(*out.at(offset)) != kTable8) return;
    constexpr std::size_t kMore = kLargeTableHeader - kSmallTableHeader;
    const std::size_t body = out.size() - offset - kSmallTableHeader;
    out.reserve(kMore);
    out.advance(kMore);
    std::memmove(out.at(offset + kLargeTableHeader), out.at(offset + kSmallTableHeader), body);
    store(out.at(offset), kTable32);
}

Status fault_status(Fault fault, std::size_t offset) {
    switch (fault) {
        case Fault::none: return {};
        case Fault::cut_off:
            return Status::error(StatusCode::invalid, "the payload is cut off at byte %zu", offset);
        case Fault::unknown_tag:
            return Status::error(StatusCode::invalid,
                                 "the payload has an unknown tag before byte %zu", offset);
        case Fault::bad_key:
            return Status::error(StatusCode::invalid,
                                 "the payload has a key that can't be one before byte %zu", offset);
        case Fault::too_deep:
            return Status::error(StatusCode::too_large,
                                 "the payload nests tables deeper than %d at byte %zu", kMaxDepth,
                                 offset);
        case Fault::too_large:
            return Status::error(StatusCode::too_large,
                                 "the payload has %zu bytes, more than %zu MB", offset,
                                 kMaxPayload >> 20);
        case Fault::too_many:
            return Status::error(StatusCode::too_large,
                                 "the payload has more values than a Lua stack holds");
    }
    return Status::error(StatusCode::internal, "unknown fault");
}

}  // namespace wire
}  // namespace perilune

#include "data/row_batch.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace perilune {

namespace {

// Reads what put() has written; `ok` is false from the first time that it isn't there.
struct Reader {
    std::string_view left;
    bool ok = true;

    template <typename T>
    T take() {
        T value{};
        if (left.size() < sizeof value) {
            ok = false;
            return value;
        }
        std::memcpy(&value, left.data(), sizeof value);
        left.remove_prefix(sizeof value);
        return value;
    }
    std::string_view take_bytes() {
        const auto size = take<std::uint64_t>();
        if (!ok || left.size() < size) {
            ok = false;
            return {};
        }
        const std::string_view bytes = left.substr(0, size);
        left.remove_prefix(size);
        return bytes;
    }
};

void read_columns(Reader& in, RowSink& sink) {
    std::vector<std::string_view> names;
    for (auto count = in.take<std::uint32_t>(); in.ok && count > 0; --count) {
        names.push_back(in.take_bytes());
    }
    if (in.ok) sink.columns(names);
}

void read_result(Reader& in, SqlResult& result) {
    result.code = in.take<SqlCode>();
    result.affected = in.take<std::uint64_t>();
    result.insert_id = in.take<std::uint64_t>();
    result.in_transaction = in.take<bool>();
    result.has_rows = in.take<bool>();
    result.native = in.take<int>();
    result.unknown = in.take<bool>();
    result.lost = in.take<bool>();
    const std::string_view state = in.take_bytes();
    state.copy(result.sqlstate, sizeof result.sqlstate - 1);
    result.message = in.take_bytes();
}

}  // namespace

void RowWriter::put_bytes(char tag, std::string_view bytes) {
    put(tag, static_cast<std::uint64_t>(bytes.size()));
    out_.append(bytes.data(), bytes.size());
}

void RowWriter::columns(std::span<const std::string_view> names) {
    put('c', static_cast<std::uint32_t>(names.size()));
    for (const std::string_view name : names) {
        const auto size = static_cast<std::uint64_t>(name.size());
        out_.append(&size, sizeof size);
        out_.append(name.data(), name.size());
    }
}

void RowWriter::result(const SqlResult& result) {
    const auto write = [this](const auto& value) { out_.append(&value, sizeof value); };
    const auto write_bytes = [&](std::string_view bytes) {
        write(static_cast<std::uint64_t>(bytes.size()));
        out_.append(bytes.data(), bytes.size());
    };
    put('=');
    write(result.code);
    write(result.affected);
    write(result.insert_id);
    write(result.in_transaction);
    write(result.has_rows);
    write(result.native);
    write(result.unknown);
    write(result.lost);
    write_bytes(result.sqlstate);
    write_bytes(result.message);
}

BufferRef RowWriter::take() { return out_.take_buffer(); }

bool replay(std::string_view bytes, RowSink& sink, SqlResult* result) {
    Reader in{bytes};
    while (in.ok && !in.left.empty()) {
        switch (in.take<char>()) {
            case 'c': read_columns(in, sink); break;
            case '[': sink.begin_row(); break;
            case ']': sink.end_row(); break;
            case '0': sink.null(); break;
            case 'i': sink.integer(in.take<std::int64_t>()); break;
            case 'n': sink.natural(in.take<std::uint64_t>()); break;
            case 'r': sink.real(in.take<double>()); break;
            case 't': sink.text(in.take_bytes()); break;
            case '=':
                if (result == nullptr) return false;
                read_result(in, *result);
                break;
            default: return false;
        }
    }
    return in.ok;
}

}  // namespace perilune

// Row batch: answers as bytes, where they pass from one thread to another.
//
// Purpose:   what a RowSink is told, written down, and told again elsewhere.
// Threads:   one owner.
// Ownership: a writer owns its bytes until they are taken.
//
// The bytes never leave the process; numbers are in the machine's order.
#pragma once

#include <string_view>

#include "core/payload.h"
#include "data/sql.h"

namespace perilune {

class RowWriter final : public RowSink {
  public:
    void columns(std::span<const std::string_view> names) override;
    void begin_row() override { put('['); }
    void null() override { put('0'); }
    void integer(std::int64_t value) override { put('i', value); }
    void natural(std::uint64_t value) override { put('n', value); }
    void real(double value) override { put('r', value); }
    void text(std::string_view bytes) override { put_bytes('t', bytes); }
    void end_row() override { put(']'); }
    // How the statement ended.
    void result(const SqlResult& result);

    std::size_t size() const { return out_.size(); }
    // All that was written, which the writer then has no more.
    BufferRef take();

  private:
    void put(char tag) { out_.append_byte(static_cast<unsigned char>(tag)); }
    template <typename T>
    void put(char tag, T value) {
        put(tag);
        out_.append(&value, sizeof value);
    }
    void put_bytes(char tag, std::string_view bytes);

    PayloadWriter out_;
};

// Tells `sink` what was written; a result goes to `result` instead, where there is one. False, and
// it stops there, when the bytes can't be read.
bool replay(std::string_view bytes, RowSink& sink, SqlResult* result);

}  // namespace perilune

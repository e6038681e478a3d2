// RedisReader: replies of Redis (RESP, version 2) out of a stream of bytes, by hiredis's reader.
//
// Purpose:   cuts one reply after the other out of what arrives, in pieces of any size, as a flat
//            list of nodes: no object a value, nothing of Lua, so that a reply that comes in many
//            pieces or breaks off is nobody's half-made value.
// Threads:   one at a time.
// Ownership: a reader keeps the reply that it is at and the bytes that have come of it: announcing
//            64 MB costs the announcer 64 MB first.
//
// hiredis takes what no server sends, such as a text without its end, and bounds neither sizes nor
// counts. What is added here is strict: every limit has an error of its own, and after one the
// stream is of no use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct redisReader;
struct redisReadTask;

namespace perilune {

enum class RedisType : std::uint8_t { text, status, error, integer, null, array };

// One value. The elements of an array are the nodes that follow it, each with its own elements.
struct RedisNode {
    RedisType type = RedisType::null;
    std::uint32_t size = 0;  // bytes of a text, a status or an error; elements of an array
    std::int64_t value = 0;  // an integer; of a text where it begins in RedisReader::text()
};

struct RedisLimits {
    std::size_t bytes = 64 << 20;          // texts of one reply together
    std::uint32_t elements = 1024 * 1024;  // nodes of one reply
};

class RedisReader {
  public:
    static constexpr std::size_t kMaxLine = 64 * 1024;  // of a status or an error
    static constexpr int kMaxDepth = 8;                 // arrays within arrays

    enum class Outcome : std::uint8_t {
        reply,   // nodes() has it, until the next call
        more,    // `input` is used up, what was left of it is kept
        failed,  // error() says why; it stays so
    };
    enum class Error : std::uint8_t { none, malformed, too_large, too_many, too_deep };

    explicit RedisReader(const RedisLimits& limits = {});
    ~RedisReader();
    RedisReader(const RedisReader&) = delete;
    RedisReader& operator=(const RedisReader&) = delete;

    // Reads on until one reply is complete, and moves `input` behind what was taken of it.
    Outcome next(std::string_view& input);

    // The reply: its value is the first node.
    std::span<const RedisNode> nodes() const { return nodes_; }
    std::string_view text(const RedisNode& node) const {
        return std::string_view(text_).substr(static_cast<std::size_t>(node.value), node.size);
    }

    Error error() const { return error_; }
    const char* message() const { return message_; }

    // Bytes that are kept: of the reply, and of what follows it.
    std::size_t kept() const;
    // Bytes of memory for them.
    std::size_t reserved() const;

  private:
    struct Callbacks;
    struct Free {
        void operator()(redisReader* reader) const;
    };

    void* fail(Error error, const char* message);
    void* add(RedisNode node);
    void* add_text(const redisReadTask& task, const char* data, std::size_t size);
    void* add_array(const redisReadTask& task, std::size_t elements);
    void begin();
    void check_unfinished();
    Outcome failed();

    const RedisLimits limits_;
    std::unique_ptr<redisReader, Free> reader_;
    std::vector<RedisNode> nodes_;
    std::string text_;
    bool complete_ = false;  // nodes_ has a whole reply
    Error error_ = Error::none;
    const char* message_ = "";
};

// "malformed", "too_large", ...
const char* redis_error_name(RedisReader::Error error);

// The code that an error of a server begins with, such as WRONGTYPE; "ERR" when it has none.
std::string_view redis_error_code(std::string_view text);

}  // namespace perilune

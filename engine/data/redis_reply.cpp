#include "data/redis_reply.h"

#include <hiredis/read.h>

#include <algorithm>
#include <cstring>

namespace perilune {

namespace {

// hiredis moves what it has not read after each KB of replies: little of it at a time.
constexpr std::size_t kSlice = 16 * 1024;
// "-9223372036854775808\r\n", and more than any length that is taken.
constexpr std::size_t kMaxNumber = 24;
// Memory that a reader keeps between replies.
constexpr std::size_t kKeptRoom = 64 * 1024;

RedisType text_type(int type) {
    if (type == REDIS_REPLY_STATUS) return RedisType::status;
    return type == REDIS_REPLY_ERROR ? RedisType::error : RedisType::text;
}

// The length that a text announces, when it is there as a whole: hiredis has looked at it. -1 else.
long long announced(std::string_view header) {
    const std::size_t end = header.substr(0, kMaxNumber).find("\r\n");
    if (end == std::string_view::npos) return -1;
    long long length = 0;
    for (const char digit : header.substr(0, end)) length = length * 10 + (digit - '0');
    return length;
}

}  // namespace

// What hiredis calls while it reads. It wants an object for each value, which is never looked at.
struct RedisReader::Callbacks {
    static RedisReader& of(const redisReadTask* task) {
        return *static_cast<RedisReader*>(task->privdata);
    }
    static void* text(const redisReadTask* task, char* data, std::size_t size) noexcept {
        return of(task).add_text(*task, data, size);
    }
    static void* array(const redisReadTask* task, int elements) noexcept {
        return of(task).add_array(*task, static_cast<std::size_t>(elements));
    }
    static void* integer(const redisReadTask* task, long long value) noexcept {
        return of(task).add({RedisType::integer, 0, value});
    }
    static void* null(const redisReadTask* task) noexcept { return of(task).add({}); }
    static void free(void*) noexcept {}

    static constexpr redisReplyObjectFunctions kTable = {text, array, integer, null, free};
};

void RedisReader::Free::operator()(redisReader* reader) const { redisReaderFree(reader); }

RedisReader::RedisReader(const RedisLimits& limits)
    : limits_(limits),
      // hiredis only reads the table.
      reader_(redisReaderCreateWithFunctions(
          const_cast<redisReplyObjectFunctions*>(&Callbacks::kTable))) {
    if (reader_ == nullptr) throw std::bad_alloc();
    reader_->privdata = this;
}

RedisReader::~RedisReader() = default;

void* RedisReader::fail(Error error, const char* message) {
    error_ = error;
    message_ = message;
    return nullptr;
}

void* RedisReader::add(RedisNode node) {
    if (nodes_.size() >= limits_.elements) return fail(Error::too_many, "too many values");
    nodes_.push_back(node);
    return this;
}

void* RedisReader::add_text(const redisReadTask& task, const char* data, std::size_t size) {
    const RedisType type = text_type(task.type);
    if (size > limits_.bytes - text_.size()) return fail(Error::too_large, "a reply too large");
    if (type != RedisType::text && size > kMaxLine)
        return fail(Error::too_large, "a line too long");
    if (type == RedisType::text && std::memcmp(data + size, "\r\n", 2) != 0) {
        return fail(Error::malformed, "a text that doesn't end where it should");
    }
    const auto at = static_cast<std::int64_t>(text_.size());
    text_.append(data, size);
    return add({type, static_cast<std::uint32_t>(size), at});
}

void* RedisReader::add_array(const redisReadTask& task, std::size_t elements) {
    if (&task - reader_->rstack >= kMaxDepth)
        return fail(Error::too_deep, "arrays nested too deep");
    if (nodes_.size() + elements >= limits_.elements) {
        return fail(Error::too_many, "too many values");
    }
    return add({RedisType::array, static_cast<std::uint32_t>(elements), 0});
}

void RedisReader::begin() {
    complete_ = false;
    nodes_.clear();
    text_.clear();
    if (nodes_.capacity() * sizeof(RedisNode) > kKeptRoom) nodes_.shrink_to_fit();
    if (text_.capacity() > kKeptRoom) text_.shrink_to_fit();
}

RedisReader::Outcome RedisReader::next(std::string_view& input) {
    if (error_ != Error::none) return Outcome::failed;
    if (complete_) begin();
    while (true) {
        void* reply = nullptr;
        if (redisReaderGetReply(reader_.get(), &reply) != REDIS_OK) return failed();
        if (reply != nullptr) {
            complete_ = true;
            return Outcome::reply;
        }
        check_unfinished();
        if (error_ != Error::none) return Outcome::failed;
        if (input.empty()) return Outcome::more;
        const std::string_view slice = input.substr(0, kSlice);
        if (redisReaderFeed(reader_.get(), slice.data(), slice.size()) != REDIS_OK) return failed();
        input.remove_prefix(slice.size());
    }
}

// Of what has not come as a whole, hiredis would wait for any amount.
void RedisReader::check_unfinished() {
    const redisReader& reader = *reader_;
    if (reader.ridx < 0) return;
    const std::string_view rest(reader.buf + reader.pos, reader.len - reader.pos);
    switch (reader.rstack[reader.ridx].type) {
        case REDIS_REPLY_STATUS:
        case REDIS_REPLY_ERROR:
            // The "\r" of its end may be there.
            if (rest.size() > kMaxLine + 1) fail(Error::too_large, "a line too long");
            break;
        case REDIS_REPLY_STRING: {
            const long long length = announced(rest);
            if (length >= 0) {
                const std::size_t left = limits_.bytes - text_.size();
                if (static_cast<std::size_t>(length) > left) {
                    fail(Error::too_large, "a reply too large");
                }
                break;
            }
            [[fallthrough]];
        }
        case REDIS_REPLY_INTEGER:
        case REDIS_REPLY_ARRAY:
            if (rest.size() >= kMaxNumber) fail(Error::malformed, "a number that is none");
            break;
        default: break;
    }
}

RedisReader::Outcome RedisReader::failed() {
    if (error_ != Error::none) return Outcome::failed;  // one of ours
    // The one error of hiredis that isn't about what a byte means; its stack has room for 8.
    if (std::string_view(reader_->errstr).starts_with("No support for nested")) {
        fail(Error::too_deep, reader_->errstr);
    } else {
        fail(Error::malformed, reader_->errstr);
    }
    return Outcome::failed;
}

std::size_t RedisReader::kept() const {
    return text_.size() + nodes_.size() * sizeof(RedisNode) + (reader_->len - reader_->pos);
}

std::size_t RedisReader::reserved() const {
    // hiredis doubles its buffer, up to 1 MB at a time.
    const std::size_t buffer = std::min(reader_->len * 2, reader_->len + (1 << 20));
    return text_.capacity() + nodes_.capacity() * sizeof(RedisNode) + buffer;
}

const char* redis_error_name(RedisReader::Error error) {
    switch (error) {
        case RedisReader::Error::none: return "none";
        case RedisReader::Error::malformed: return "malformed";
        case RedisReader::Error::too_large: return "too_large";
        case RedisReader::Error::too_many: return "too_many";
        case RedisReader::Error::too_deep: return "too_deep";
    }
    return "";
}

std::string_view redis_error_code(std::string_view text) {
    const std::string_view word = text.substr(0, text.find(' '));
    const bool is_code = !word.empty() && word.size() <= 32 && word[0] >= 'A' && word[0] <= 'Z' &&
                         std::all_of(word.begin(), word.end(), [](char c) {
                             return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
                         });
    return is_code ? word : std::string_view("ERR");
}

}  // namespace perilune

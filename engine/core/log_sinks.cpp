#include "core/log_sinks.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <filesystem>
#include <utility>

namespace perilune {

static constexpr int kPollMs = 100;  // how often a blocked stream looks up

// --- a stream ---

StreamSink::StreamSink(int descriptor, const std::atomic<bool>& closing)
    : descriptor_(descriptor), closing_(closing) {
    struct stat status;
    is_socket_ = descriptor >= 0 && fstat(descriptor, &status) == 0 && S_ISSOCK(status.st_mode);
}

void StreamSink::append(std::string_view line) {
    if (descriptor_ >= 0) lines_ += line;
}

bool StreamSink::flush() {
    if (lines_.empty()) return true;
    if (torn_) lines_.insert(0, "\n");
    torn_ = !write_all(lines_);
    lines_.clear();
    return !torn_;
}

// Blocks until all of `data` is written or can't be.
bool StreamSink::write_all(std::string_view data) {
    while (!data.empty()) {
        pollfd ready{descriptor_, POLLOUT, 0};
        const int count = poll(&ready, 1, kPollMs);
        if (count < 0 && errno != EINTR) return false;
        if (count <= 0) {
            if (closing_.load()) return false;
            continue;
        }
        const std::size_t size = std::min<std::size_t>(data.size(), PIPE_BUF);
        const ssize_t written =
            is_socket_ ? send(descriptor_, data.data(), size, MSG_DONTWAIT | MSG_NOSIGNAL)
                       : ::write(descriptor_, data.data(), size);
        if (written < 0) {
            if (errno != EINTR && errno != EAGAIN) return false;
            if (closing_.load()) return false;
            continue;
        }
        data.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

// --- files ---

FileSink::FileSink(std::string path, std::size_t max_bytes, std::size_t files)
    : path_(std::move(path)), max_bytes_(std::max<std::size_t>(max_bytes, 1)), files_(files) {}

FileSink::~FileSink() {
    if (descriptor_ >= 0) close(descriptor_);
}

bool FileSink::open() {
    // Without O_NONBLOCK a named pipe would hold us up here; files don't mind it.
    constexpr int kFlags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK;
    descriptor_ = ::open(path_.c_str(), kFlags, 0640);
    if (descriptor_ < 0) return false;
    struct stat status;
    size_ = fstat(descriptor_, &status) == 0 ? static_cast<std::size_t>(status.st_size) : 0;
    return true;
}

bool FileSink::append(std::string_view line) {
    if (!is_wanted()) return true;
    bool ok = true;
    if (size_ + lines_.size() + line.size() > max_bytes_ && size_ + lines_.size() > 0) {
        ok = flush();
        rotate();
    }
    lines_ += line;
    return ok;
}

bool FileSink::flush() {
    if (lines_.empty()) return true;
    if (descriptor_ < 0) open();
    if (torn_) lines_.insert(0, "\n");
    std::string_view rest = lines_;
    while (!rest.empty()) {
        const ssize_t written = ::write(descriptor_, rest.data(), rest.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) break;
        size_ += static_cast<std::size_t>(written);
        rest.remove_prefix(static_cast<std::size_t>(written));
    }
    torn_ = !rest.empty();
    lines_.clear();
    return !torn_;
}

std::string FileSink::old_path(std::size_t number) const {
    if (number == 0) return path_;
    const std::filesystem::path path(path_);
    const std::string name =
        path.stem().string() + "." + std::to_string(number) + path.extension().string();
    return (path.parent_path() / name).string();
}

// A file that can't be renamed is written on, and this is tried again max_bytes later.
void FileSink::rotate() {
    struct stat status;
    if (descriptor_ >= 0 && fstat(descriptor_, &status) == 0 && !S_ISREG(status.st_mode)) {
        size_ = 0;
        return;
    }
    for (std::size_t number = files_; number > 0; --number) {
        ::rename(old_path(number - 1).c_str(), old_path(number).c_str());
    }
    if (files_ == 0) unlink(path_.c_str());
    if (descriptor_ >= 0) close(descriptor_);
    open();
    if (size_ > 0) size_ = 0;
    torn_ = false;
}

}  // namespace perilune

// Log sinks: where lines of the log go, a stream and files that rotate.
//
// Purpose:   collect lines and write them with one call; what can't be written is lost, and said.
// Threads:   the log's thread, but for `closing`, which ends waiting for a stream.
// Ownership: a stream's descriptor stays the caller's; files are the sink's.
#pragma once

#include <atomic>
#include <cstddef>
#include <string>
#include <string_view>

namespace perilune {

class StreamSink {
  public:
    // `descriptor` -1: lines are dropped. It may block; one that nobody reads is waited for until
    // `closing`.
    StreamSink(int descriptor, const std::atomic<bool>& closing);

    void append(std::string_view line);
    // False when it could not be written; it is lost then.
    bool flush();

  private:
    bool write_all(std::string_view data);

    const int descriptor_;
    const std::atomic<bool>& closing_;
    bool is_socket_ = false;
    bool torn_ = false;  // the last write may have ended within a line
    std::string lines_;
};

// name.log, and the older name.1.log, name.2.log, ...
class FileSink {
  public:
    // An empty path: lines are dropped.
    FileSink(std::string path, std::size_t max_bytes, std::size_t files);
    ~FileSink();
    FileSink(const FileSink&) = delete;
    FileSink& operator=(const FileSink&) = delete;

    bool is_wanted() const { return !path_.empty(); }
    // False, with errno, when it can't be.
    bool open();
    // False when lines before this one were lost.
    bool append(std::string_view line);
    // False when it could not be written; it is lost then.
    bool flush();

  private:
    std::string old_path(std::size_t number) const;
    void rotate();

    const std::string path_;
    const std::size_t max_bytes_;
    const std::size_t files_;
    int descriptor_ = -1;
    std::size_t size_ = 0;
    bool torn_ = false;
    std::string lines_;
};

}  // namespace perilune

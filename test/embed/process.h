// Processes that a test starts: the node's program, with what it prints.
//
// Purpose:   runs build/<mode>/perilune as a user would.
// Threads:   each object, one thread.
// Ownership: a Process that is still running when it goes is killed.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace perilune::test {

// A folder of its own, removed with its content.
class Folder {
  public:
    Folder();
    ~Folder();
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    const std::string& path() const { return path_; }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    // Makes the folders on the way.
    void write(const std::string& name, const std::string& text) const;

  private:
    std::string path_;
};

class Process {
  public:
    // Starts `program` in `folder`; what it prints to both streams is kept.
    Process(const std::string& folder, const std::vector<std::string>& command);
    ~Process();
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    // Waits until it has printed `text`. False when it ends before, or `limit_ms` is over.
    bool printed(const std::string& text, int limit_ms = 20'000);
    void signal(int number) const;
    pid_t id() const { return pid_; }
    // Its exit code; 128 and the signal that ended it; -1 when it runs on after `limit_ms`.
    int wait(int limit_ms = 30'000);
    // What it has printed so far.
    const std::string& output() const { return output_; }

  private:
    bool read_more(int limit_ms);

    pid_t pid_ = -1;
    int pipe_ = -1;
    int code_ = -1;
    std::string output_;
};

// The program under test. Tests that need it are skipped where it hasn't been built.
std::string node_program();

}  // namespace perilune::test

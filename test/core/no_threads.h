// NoThreads: while it lives, this process gets no stack for another thread of the engine.
//
// Purpose:   tests of what happens when the system has no thread left.
// Threads:   one at a time.
// Ownership: a value; it restores what was before.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>

namespace perilune::test {

class NoThreads {
  public:
    // `room_mb`: what may still be mapped.
    explicit NoThreads(int room_mb = 16) {
        long pages = 0;
        if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
            if (std::fscanf(file, "%ld", &pages) != 1) pages = 0;
            std::fclose(file);
        }
        getrlimit(RLIMIT_AS, &before_);
        rlimit limit = before_;
        limit.rlim_cur = static_cast<rlim_t>(pages) * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) +
                         (static_cast<rlim_t>(room_mb) << 20);
        setrlimit(RLIMIT_AS, &limit);
    }
    ~NoThreads() { setrlimit(RLIMIT_AS, &before_); }
    NoThreads(const NoThreads&) = delete;
    NoThreads& operator=(const NoThreads&) = delete;

  private:
    rlimit before_{};
};

}  // namespace perilune::test

#include "process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>

namespace perilune::test {

namespace {

using Clock = std::chrono::steady_clock;

int ms_until(Clock::time_point end) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    return static_cast<int>(std::max<std::int64_t>(0, left.count()));
}

}  // namespace

Folder::Folder() {
    char name[] = "/tmp/perilune_XXXXXX";
    path_ = mkdtemp(name);
}

Folder::~Folder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
}

void Folder::write(const std::string& name, const std::string& text) const {
    const std::filesystem::path file = std::filesystem::path(path_) / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
}

Process::Process(const std::string& folder, const std::vector<std::string>& command) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return;
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        if (chdir(folder.c_str()) == 0) execv(arguments[0], arguments.data());
        _exit(127);
    }
    close(ends[1]);
    pipe_ = ends[0];
    fcntl(pipe_, F_SETFL, O_NONBLOCK);
}

Process::~Process() {
    if (pid_ > 0 && code_ < 0) {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
    }
    if (pipe_ >= 0) close(pipe_);
}

// False at the end of the output, or when nothing came in time.
bool Process::read_more(int limit_ms) {
    pollfd ready{pipe_, POLLIN, 0};
    if (poll(&ready, 1, limit_ms) <= 0) return false;
    char buffer[4096];
    const ssize_t count = read(pipe_, buffer, sizeof buffer);
    if (count > 0) output_.append(buffer, static_cast<std::size_t>(count));
    return count > 0;
}

bool Process::printed(const std::string& text, int limit_ms) {
    const Clock::time_point end = Clock::now() + std::chrono::milliseconds(limit_ms);
    while (output_.find(text) == std::string::npos) {
        const int left = ms_until(end);
        if (left == 0 || !read_more(left)) return false;
    }
    return true;
}

void Process::signal(int number) const { kill(pid_, number); }

int Process::wait(int limit_ms) {
    const Clock::time_point end = Clock::now() + std::chrono::milliseconds(limit_ms);
    while (code_ < 0 && ms_until(end) > 0) {
        (void)read_more(10);
        int status = 0;
        if (waitpid(pid_, &status, WNOHANG) != pid_) continue;
        code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    while (read_more(0)) {
    }
    return code_;
}

std::string node_program() {
    const char* build = std::getenv("PERILUNE_BUILD");
    const std::filesystem::path folder = build != nullptr ? build : "build/release";
    std::error_code error;
    const std::filesystem::path program = std::filesystem::absolute(folder / "perilune", error);
    return std::filesystem::exists(program, error) ? program.string() : "";
}

}  // namespace perilune::test

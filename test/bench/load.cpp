// Loads a server of frames [u16 big-endian length][payload] over TCP, and measures what that costs
// the server. `load <program> <arguments...>` starts it, waits for its line "READY <port>", and
// ends it at last. Every frame's bytes and order are checked; a wrong one is a line FAIL.
//
//   BENCH_MODE         echo: each connection keeps BENCH_DEPTH frames in flight
//                      broadcast: what connection 0 sends comes to all; BENCH_RATE a second, or,
//                      without, at most BENCH_WINDOW that have not reached all
//                      idle: memory of the server for each connection
//   BENCH_CONNECTIONS, BENCH_SIZE (bytes of a payload), BENCH_SECONDS, BENCH_NAME (of the results)
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr std::size_t kHeader = 2;
constexpr std::size_t kStamp = 16;  // of a payload: its number, and when it was sent
constexpr double kWarmUpSeconds = 0.5;
constexpr double kStallSeconds = 20;

pid_t server = 0;

[[noreturn]] void fail(const char* what) {
    std::printf("FAIL %s (%s)\n", what, std::strerror(errno));
    if (server > 0) kill(server, SIGKILL);
    std::exit(1);
}

double setting(const char* name, double fallback) {
    const char* text = std::getenv(name);
    return text == nullptr ? fallback : std::atof(text);
}

std::int64_t now_ns() {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

// --- the server ---

int start_server(char** command) {
    int output[2];
    if (pipe(output) != 0) fail("pipe");
    server = fork();
    if (server == 0) {
        dup2(output[1], STDOUT_FILENO);
        close(output[0]);
        execvp(command[0], command);
        _exit(127);
    }
    close(output[1]);
    std::FILE* lines = fdopen(output[0], "r");
    char line[256];
    int port = 0;
    while (std::fgets(line, sizeof line, lines) != nullptr) {
        if (std::sscanf(line, "READY %d", &port) == 1) return port;
    }
    fail("the server did not say READY");
}

void stop_server() {
    kill(server, SIGTERM);
    waitpid(server, nullptr, 0);
}

double server_cpu_seconds() {
    std::ifstream file("/proc/" + std::to_string(server) + "/stat");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    std::istringstream words(text.substr(text.rfind(')') + 2));
    std::string skipped;
    for (int i = 0; i < 11; ++i) words >> skipped;
    double user = 0;
    double system = 0;
    words >> user >> system;
    return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double server_memory_kib() {
    std::ifstream file("/proc/" + std::to_string(server) + "/status");
    std::string line;
    while (std::getline(file, line)) {
        if (line.compare(0, 6, "VmRSS:") == 0) return std::atof(line.c_str() + 6);
    }
    fail("no VmRSS");
}

// --- connections ---

struct Connection {
    int descriptor = -1;
    std::string in;
    std::string out;
    std::uint64_t sent = 0;
    std::uint64_t received = 0;
    bool waits_for_room = false;
};

class Load {
  public:
    Load(std::string name, int port)
        : name_(std::move(name)),
          port_(port),
          size_(static_cast<std::size_t>(setting("BENCH_SIZE", 64))),
          seconds_(setting("BENCH_SECONDS", 4)),
          connections_(static_cast<std::size_t>(setting("BENCH_CONNECTIONS", 100))),
          poll_(epoll_create1(0)) {
        if (size_ < kStamp || size_ > 65000) fail("BENCH_SIZE");
    }

    void echo();
    void broadcast();
    void idle();

  private:
    void connect_all();
    void send_frame(std::size_t index, std::uint64_t number);
    void flush(std::size_t index);
    template <typename Visit>
    void read(std::size_t index, Visit visit);
    template <typename Visit>
    bool wait(int timeout_ms, Visit visit);
    std::int64_t check(std::string_view payload, std::uint64_t number) const;
    bool measure(std::int64_t now);
    void count(std::int64_t sent_ns);
    void report(const char* unit, double seconds);

    const std::string name_;
    const int port_;
    const std::size_t size_;
    const double seconds_;
    std::vector<Connection> connections_;
    const int poll_;
    std::int64_t began_ns_ = 0;     // of all
    std::int64_t measured_ns_ = 0;  // 0: not yet
    bool done_ = false;
    double cpu_ = 0;
    std::uint64_t counted_ = 0;
    std::vector<float> latencies_us_;
    std::vector<char> buffer_ = std::vector<char>(1 << 18);
};

void Load::connect_all() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port_));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (std::size_t i = 0; i < connections_.size(); ++i) {
        const int descriptor = socket(AF_INET, SOCK_STREAM, 0);
        if (descriptor < 0) fail("socket");
        if (connect(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
            fail("connect");
        }
        const int on = 1;
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        fcntl(descriptor, F_SETFL, O_NONBLOCK);
        connections_[i].descriptor = descriptor;
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = i;
        epoll_ctl(poll_, EPOLL_CTL_ADD, descriptor, &event);
        if (i % 100 == 99) usleep(2000);  // the server's backlog
    }
}

void Load::send_frame(std::size_t index, std::uint64_t number) {
    std::string& out = connections_[index].out;
    out += static_cast<char>(size_ >> 8);
    out += static_cast<char>(size_ & 0xff);
    const std::int64_t now = now_ns();
    out.append(reinterpret_cast<const char*>(&number), 8);
    out.append(reinterpret_cast<const char*>(&now), 8);
    for (std::size_t i = kStamp; i < size_; ++i) out += static_cast<char>(number * 7 + i);
}

// When the payload was sent.
std::int64_t Load::check(std::string_view payload, std::uint64_t number) const {
    std::uint64_t its_number = 0;
    std::int64_t sent_ns = 0;
    if (payload.size() != size_) fail("a payload of another size");
    std::memcpy(&its_number, payload.data(), 8);
    std::memcpy(&sent_ns, payload.data() + 8, 8);
    if (its_number != number) fail("a payload out of order");
    for (std::size_t i = kStamp; i < size_; ++i) {
        if (payload[i] != static_cast<char>(number * 7 + i)) fail("a payload with other bytes");
    }
    return sent_ns;
}

void Load::flush(std::size_t index) {
    Connection& c = connections_[index];
    std::size_t done = 0;
    while (done < c.out.size()) {
        const ssize_t sent =
            ::send(c.descriptor, c.out.data() + done, c.out.size() - done, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) break;
        if (sent < 0) fail("send");
        done += static_cast<std::size_t>(sent);
    }
    c.out.erase(0, done);
    if (c.waits_for_room == !c.out.empty()) return;
    c.waits_for_room = !c.out.empty();
    epoll_event event{};
    event.events = EPOLLIN | (c.waits_for_room ? EPOLLOUT : 0u);
    event.data.u64 = index;
    epoll_ctl(poll_, EPOLL_CTL_MOD, c.descriptor, &event);
}

template <typename Visit>
void Load::read(std::size_t index, Visit visit) {
    Connection& c = connections_[index];
    const ssize_t count = recv(c.descriptor, buffer_.data(), buffer_.size(), 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) fail("the server has closed a connection");
    c.in.append(buffer_.data(), static_cast<std::size_t>(count));
    std::string_view left = c.in;
    while (left.size() >= kHeader) {
        const std::size_t length =
            static_cast<unsigned char>(left[0]) << 8 | static_cast<unsigned char>(left[1]);
        if (left.size() < kHeader + length) break;
        visit(left.substr(kHeader, length));
        left.remove_prefix(kHeader + length);
    }
    c.in.erase(0, c.in.size() - left.size());
}

template <typename Visit>
bool Load::wait(int timeout_ms, Visit visit) {
    epoll_event events[1024];
    const int count = epoll_wait(poll_, events, 1024, timeout_ms);
    for (int i = 0; i < count; ++i) {
        const std::size_t index = events[i].data.u64;
        if ((events[i].events & EPOLLOUT) != 0) flush(index);
        if ((events[i].events & ~static_cast<std::uint32_t>(EPOLLOUT)) != 0) visit(index);
    }
    return count > 0;
}

// Begins and ends what is measured. False when it is over.
bool Load::measure(std::int64_t now) {
    if (measured_ns_ == 0 && now - began_ns_ >= static_cast<std::int64_t>(kWarmUpSeconds * 1e9)) {
        measured_ns_ = now;
        cpu_ = server_cpu_seconds();
    }
    return measured_ns_ == 0 || now - measured_ns_ < static_cast<std::int64_t>(seconds_ * 1e9);
}

void Load::count(std::int64_t sent_ns) {
    if (measured_ns_ == 0 || done_) return;
    ++counted_;
    // Of many only every so many: the numbers would not fit.
    if (counted_ % 8 == 0) {
        latencies_us_.push_back(static_cast<float>(static_cast<double>(now_ns() - sent_ns) / 1e3));
    }
}

void Load::report(const char* unit, double seconds) {
    const double cpu = server_cpu_seconds() - cpu_;
    const double messages = static_cast<double>(counted_);
    std::sort(latencies_us_.begin(), latencies_us_.end());
    const std::size_t p99 = latencies_us_.size() * 99 / 100;
    std::printf("RESULT %s_rate %.6g %s\n", name_.c_str(), messages / seconds, unit);
    std::printf("RESULT %s_cpu %.4g cpu_s/1M\n", name_.c_str(), cpu / messages * 1e6);
    if (latencies_us_.empty()) return;
    std::printf("RESULT %s_p99 %.4g us\n", name_.c_str(), static_cast<double>(latencies_us_[p99]));
}

void Load::echo() {
    const auto depth = static_cast<std::uint64_t>(setting("BENCH_DEPTH", 1));
    connect_all();
    began_ns_ = now_ns();
    std::uint64_t in_flight = 0;
    for (std::size_t i = 0; i < connections_.size(); ++i) {
        for (std::uint64_t k = 0; k < depth; ++k) send_frame(i, connections_[i].sent++);
        in_flight += depth;
        flush(i);
    }
    while (in_flight > 0) {
        const bool any = wait(static_cast<int>(kStallSeconds * 1000), [&](std::size_t i) {
            Connection& c = connections_[i];
            read(i, [&](std::string_view payload) {
                count(check(payload, c.received++));
                --in_flight;
                if (done_) return;
                send_frame(i, c.sent++);
                ++in_flight;
            });
            if (!c.out.empty()) flush(i);
        });
        if (!any) fail("nothing came back");
        const std::int64_t now = now_ns();
        if (done_ || measure(now)) continue;
        report("messages/s", static_cast<double>(now - measured_ns_) / 1e9);
        done_ = true;
    }
}

void Load::broadcast() {
    const double rate = setting("BENCH_RATE", 0);
    const auto window = static_cast<std::uint64_t>(setting("BENCH_WINDOW", 4));
    const std::int64_t interval = rate > 0 ? static_cast<std::int64_t>(1e9 / rate) : 0;
    connect_all();
    usleep(500'000);  // until the server has accepted all
    std::int64_t next = began_ns_ = now_ns();
    std::uint64_t sent = 0;
    std::uint64_t delivered = 0;
    while (!done_ || delivered < sent * connections_.size()) {
        const std::int64_t now = now_ns();
        const bool may =
            interval > 0 ? now >= next : sent - delivered / connections_.size() < window;
        if (!done_ && may) {
            next += interval;
            send_frame(0, sent++);
            flush(0);
        }
        const int pause = interval == 0 || done_
                              ? 1000
                              : static_cast<int>(std::max<std::int64_t>(next - now, 0) / 1'000'000);
        wait(may && !done_ ? 0 : pause, [&](std::size_t i) {
            read(i, [&](std::string_view payload) {
                count(check(payload, connections_[i].received++));
                ++delivered;
            });
        });
        if (done_ || measure(now)) continue;
        report("deliveries/s", static_cast<double>(now - measured_ns_) / 1e9);
        done_ = true;
        next = now + static_cast<std::int64_t>(kStallSeconds * 1e9);
    }
}

void Load::idle() {
    usleep(500'000);
    const double before = server_memory_kib();
    connect_all();
    sleep(1);
    const double connected = server_memory_kib();
    std::size_t left = connections_.size();
    for (std::size_t i = 0; i < connections_.size(); ++i) {
        send_frame(i, 0);
        flush(i);
    }
    while (left > 0) {
        const bool any = wait(static_cast<int>(kStallSeconds * 1000), [&](std::size_t i) {
            read(i, [&](std::string_view payload) {
                (void)check(payload, 0);
                --left;
            });
        });
        if (!any) fail("nothing came back");
    }
    sleep(1);
    const double echoed = server_memory_kib();
    const double count = static_cast<double>(connections_.size());
    std::printf("RESULT %s_idle %.4g KiB\n", name_.c_str(), (connected - before) / count);
    std::printf("RESULT %s_after_echo %.4g KiB\n", name_.c_str(), (echoed - before) / count);
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 2) fail("load <program> <arguments...>");
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    const char* mode = std::getenv("BENCH_MODE");
    const char* name = std::getenv("BENCH_NAME");
    Load load(name == nullptr ? "load" : name, start_server(arguments + 1));
    const std::string_view wanted = mode == nullptr ? "echo" : mode;
    if (wanted == "echo") load.echo();
    if (wanted == "broadcast") load.broadcast();
    if (wanted == "idle") load.idle();
    stop_server();
}

// Loads a server over TCP, and measures what that costs the server. `load <program>
// <arguments...>` starts it, waits for its line "READY <port>", and ends it at last. Every frame's
// bytes and order are checked; a wrong one is a line FAIL.
//
//   BENCH_WIRE         frames: [u16 big-endian length][payload], the default
//                      json, buf: packets of the client protocol, to a service that echoes
//   BENCH_ENCRYPT      1: connections have the encryption of docs/protocol.md
//   BENCH_LOGIN        1: each connection says hello and logs in as a guest first
//   BENCH_MODE         echo: each connection keeps BENCH_DEPTH frames in flight
//                      broadcast: what connection 0 sends comes to all; BENCH_RATE a second, or,
//                      without, at most BENCH_WINDOW that have not reached all
//                      idle: memory of the server for each connection
//   BENCH_CONNECTIONS, BENCH_SIZE (bytes of a payload), BENCH_SECONDS, BENCH_NAME (of the results)
//   BENCH_MESSAGES     so many instead of a time: to count instructions, two runs are compared
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
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "net/encryption.h"

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

std::string text_setting(const char* name, const char* fallback) {
    const char* text = std::getenv(name);
    return text == nullptr ? fallback : text;
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

// --- what is sent ---

// Frames that carry a number and the time when they were sent, and are echoed as they are.
class Wire {
  public:
    Wire(std::string_view name, std::size_t size) : size_(size) {
        kind_ = name == "json" ? Kind::json : name == "buf" ? Kind::buf : Kind::frame;
        if (size < (kind_ == Kind::frame ? kStamp : kLeastPacket) || size > 65000) {
            fail("BENCH_SIZE");
        }
    }

    // The size of the frame that begins with these two bytes.
    std::size_t frame_size(std::string_view bytes) const {
        const std::size_t first = static_cast<unsigned char>(bytes[0]);
        const std::size_t second = static_cast<unsigned char>(bytes[1]);
        return kind_ == Kind::frame ? kHeader + (first << 8 | second) : first | second << 8;
    }

    void append(std::string& out, std::uint64_t number, std::int64_t sent_ns) const {
        const std::size_t total = size_ + (kind_ == Kind::frame ? 0 : kHeader);
        out += static_cast<char>(kind_ == Kind::frame ? total >> 8 : total);
        out += static_cast<char>(kind_ == Kind::frame ? total : total >> 8);
        const std::size_t begin = out.size();
        if (kind_ == Kind::frame) {
            append_bytes(out, number, 8);
            append_bytes(out, static_cast<std::uint64_t>(sent_ns), 8);
        } else {
            append_head(out, number);
            char stamp[kStamp + 1];
            std::snprintf(stamp, sizeof stamp, "%016" PRIx64, sent_ns);
            out += stamp;
        }
        const std::size_t end = begin + size_ - tail().size();
        // Letters, since a packet holds text.
        const std::uint64_t base = kind_ == Kind::frame ? number * 7 : 'a' + number % 19;
        for (std::size_t i = out.size() - begin; out.size() < end; ++i) {
            out += static_cast<char>(base + (kind_ == Kind::frame ? i : i % 7));
        }
        out += tail();
    }

    // When the payload was sent, which is what append() made of `number` then.
    std::int64_t check(std::string_view payload, std::uint64_t number) {
        if (payload.size() != size_) fail("a payload of another size");
        std::int64_t sent_ns = 0;
        if (kind_ == Kind::frame) {
            std::memcpy(&sent_ns, payload.data() + 8, 8);
        } else {
            expected_.clear();
            append_head(expected_, number);
            const std::string stamp(payload.substr(expected_.size(), kStamp));
            sent_ns = static_cast<std::int64_t>(std::strtoull(stamp.c_str(), nullptr, 16));
        }
        expected_.clear();
        append(expected_, number, sent_ns);
        if (payload == std::string_view(expected_).substr(kHeader)) return sent_ns;
        fail("a payload with other bytes, or out of order");
    }

    // A packet of a command with a JSON body.
    static std::string json_packet(int stype, int ctype, const std::string& json) {
        std::string out;
        append_bytes(out, kHeader + kPacketHeader + 2 + json.size(), 2);
        append_packet_header(out, stype, ctype, 1);
        append_bytes(out, json.size(), 2);
        return out + json;
    }

  private:
    enum class Kind { frame, json, buf };
    static constexpr std::size_t kPacketHeader = 10;
    static constexpr std::size_t kLeastPacket = 64;
    static constexpr int kGame = 4;

    static void append_bytes(std::string& out, std::uint64_t number, std::size_t count) {
        out.append(reinterpret_cast<const char*>(&number), count);
    }
    static void append_packet_header(std::string& out, int stype, int ctype, int proto_type) {
        append_bytes(out, static_cast<std::uint64_t>(stype), 2);
        append_bytes(out, static_cast<std::uint64_t>(ctype), 2);
        append_bytes(out, 0, 4);
        append_bytes(out, static_cast<std::uint64_t>(proto_type), 2);
    }
    // Of a packet: what comes before the text, which begins with the time.
    void append_head(std::string& out, std::uint64_t number) const {
        append_packet_header(out, kGame, 1, kind_ == Kind::json ? 1 : 2);
        if (kind_ == Kind::buf) {
            append_bytes(out, number, 4);
            append_bytes(out, size_ - kPacketHeader - 6, 2);
            return;
        }
        append_bytes(out, size_ - kPacketHeader - 2, 2);
        out += "{\"0\":{\"number\":" + std::to_string(number) + ",\"text\":\"";
    }
    std::string_view tail() const { return kind_ == Kind::json ? "\"}}" : ""; }

    Kind kind_;
    const std::size_t size_;
    std::string expected_;
};

// --- connections ---

struct Connection {
    int descriptor = -1;
    std::string in;
    std::string out;
    std::unique_ptr<perilune::SecureStream> secure;  // null: plain
    std::string sealed;                              // what was `out`, as it has to be sent
    std::uint64_t sent = 0;
    std::uint64_t received = 0;
    bool waits_for_room = false;
};

class Load {
  public:
    Load(std::string name, int port)
        : name_(std::move(name)),
          port_(port),
          wire_(text_setting("BENCH_WIRE", "frames"),
                static_cast<std::size_t>(setting("BENCH_SIZE", 64))),
          seconds_(setting("BENCH_SECONDS", 4)),
          messages_(static_cast<std::uint64_t>(setting("BENCH_MESSAGES", 0))),
          connections_(static_cast<std::size_t>(setting("BENCH_CONNECTIONS", 100))),
          poll_(epoll_create1(0)) {}

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
    void log_in(int descriptor, std::size_t index);
    void begin_encryption(Connection& connection);
    std::string& to_send(Connection& connection);
    bool measure(std::int64_t now);
    void count(std::int64_t sent_ns);
    void report(const char* unit, double seconds);

    const std::string name_;
    const int port_;
    Wire wire_;
    const double seconds_;
    const std::uint64_t messages_;  // 0: time is measured
    std::vector<Connection> connections_;
    const int poll_;
    std::int64_t began_ns_ = 0;     // of all
    std::int64_t measured_ns_ = 0;  // 0: not yet
    bool done_ = false;
    double cpu_ = 0;
    std::uint64_t counted_ = 0;
    std::vector<float> latencies_us_;
    std::vector<char> buffer_ = std::vector<char>(1 << 18);
    std::vector<char> opened_ = std::vector<char>(buffer_.size() + 64 * 1024);
    perilune::SystemRandom random_;
    std::shared_ptr<const perilune::SecureContext> encryption_;
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
        connections_[i].descriptor = descriptor;
        if (setting("BENCH_ENCRYPT", 0) != 0) begin_encryption(connections_[i]);
        if (setting("BENCH_LOGIN", 0) != 0) log_in(descriptor, i);
        fcntl(descriptor, F_SETFL, O_NONBLOCK);
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = i;
        epoll_ctl(poll_, EPOLL_CTL_ADD, descriptor, &event);
        if (i % 100 == 99) usleep(2000);  // the server's backlog
    }
}

void Load::send_frame(std::size_t index, std::uint64_t number) {
    wire_.append(connections_[index].out, number, now_ns());
}

// Waits for each answer; the login's has to be a packet of its numbers with status 1.
void Load::log_in(int descriptor, std::size_t index) {
    char key[33];
    std::snprintf(key, sizeof key, "bench%027zu", index);
    const std::string login = Wire::json_packet(2, 1, "{\"0\":\"" + std::string(key) + "\"}");
    for (const std::string& request : {Wire::json_packet(0, 1, "{\"0\":{}}"), login}) {
        if (send(descriptor, request.data(), request.size(), MSG_NOSIGNAL) < 0) fail("send");
        std::string answer(kHeader, '\0');
        if (recv(descriptor, answer.data(), kHeader, MSG_WAITALL) != kHeader) fail("no answer");
        answer.resize(wire_.frame_size(answer));
        const std::size_t rest = answer.size() - kHeader;
        if (recv(descriptor, answer.data() + kHeader, rest, MSG_WAITALL) !=
            static_cast<ssize_t>(rest)) {
            fail("half an answer");
        }
        if (answer.compare(kHeader, 4, request, kHeader, 4) != 0) fail("another answer");
        if (request == login && answer.find("\"status\":1,") == std::string::npos) {
            fail("the login was refused");
        }
    }
}

// Exchanges the hellos.
void Load::begin_encryption(Connection& c) {
    if (encryption_ == nullptr) encryption_ = perilune::EncryptionContext::client({}).value();
    c.secure = encryption_->open("", random_);
    const std::string& hello = to_send(c);
    if (send(c.descriptor, hello.data(), hello.size(), MSG_NOSIGNAL) < 0) fail("send");
    c.sealed.clear();
    char answer[kHeader + perilune::kServerHelloSize];
    if (recv(c.descriptor, answer, sizeof answer, MSG_WAITALL) != sizeof answer) fail("no hello");
    c.secure->feed({answer, sizeof answer});
    if (c.secure->handshake() != perilune::SecureStream::Outcome::ok) fail("no handshake");
}

// What the socket gets of what was written.
std::string& Load::to_send(Connection& c) {
    if (c.secure == nullptr) return c.out;
    if (!c.out.empty() && !c.secure->write(c.out)) fail("encryption");
    c.out.clear();
    iovec piece;
    while (c.secure->out().gather(&piece, 1) == 1) {
        c.sealed.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
        c.secure->out().consume(piece.iov_len);
    }
    return c.sealed;
}

void Load::flush(std::size_t index) {
    Connection& c = connections_[index];
    std::string& out = to_send(c);
    std::size_t done = 0;
    while (done < out.size()) {
        const ssize_t sent =
            ::send(c.descriptor, out.data() + done, out.size() - done, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) break;
        if (sent < 0) fail("send");
        done += static_cast<std::size_t>(sent);
    }
    out.erase(0, done);
    if (c.waits_for_room == !out.empty()) return;
    c.waits_for_room = !out.empty();
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
    std::string_view bytes(buffer_.data(), static_cast<std::size_t>(count));
    if (c.secure != nullptr) {
        c.secure->feed(bytes);
        const auto plain = c.secure->read(opened_.data(), opened_.size());
        if (plain.then != perilune::SecureStream::Outcome::dry) fail("decryption");
        bytes = {opened_.data(), plain.count};
    }
    c.in.append(bytes);
    std::string_view left = c.in;
    while (left.size() >= kHeader) {
        const std::size_t size = wire_.frame_size(left);
        if (left.size() < size) break;
        visit(left.substr(kHeader, size - kHeader));
        left.remove_prefix(size);
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
    const double warm_up = messages_ > 0 ? 0 : kWarmUpSeconds;
    if (measured_ns_ == 0 && now - began_ns_ >= static_cast<std::int64_t>(warm_up * 1e9)) {
        measured_ns_ = now;
        cpu_ = server_cpu_seconds();
    }
    if (measured_ns_ == 0) return true;
    if (messages_ > 0) return counted_ < messages_;
    return now - measured_ns_ < static_cast<std::int64_t>(seconds_ * 1e9);
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
                count(wire_.check(payload, c.received++));
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
                count(wire_.check(payload, connections_[i].received++));
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
                (void)wire_.check(payload, 0);
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
    const std::string wanted = text_setting("BENCH_MODE", "echo");
    Load load(text_setting("BENCH_NAME", "load"), start_server(arguments + 1));
    if (wanted == "echo") load.echo();
    if (wanted == "broadcast") load.broadcast();
    if (wanted == "idle") load.idle();
    stop_server();
}

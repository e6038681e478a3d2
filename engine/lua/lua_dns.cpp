#include "lua/lua_dns.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/codec.h"
#include "lua/lua_blocking.h"
#include "lua/lua_core.h"
#include "lua/sandbox.h"
#include "lua/vm.h"
#include "net/address.h"

namespace perilune {

namespace {

constexpr std::size_t kMaxName = 253;
constexpr const char* kFunction = "dns.resolve";

const char* code_of(int error) {
    switch (error) {
        case EAI_NONAME:
#ifdef EAI_NODATA
        case EAI_NODATA:
#endif
            return "not_found";
        default: return "unavailable";
    }
}

// The addresses of a list of the system's, each once, in its order.
std::vector<std::string> texts_of(const addrinfo* list) {
    std::vector<std::string> texts;
    for (; list != nullptr; list = list->ai_next) {
        sockaddr_storage system{};
        std::memcpy(&system, list->ai_addr, std::min<std::size_t>(list->ai_addrlen, sizeof system));
        std::string text = Address::from(system).host();
        if (std::find(texts.begin(), texts.end(), text) == texts.end()) {
            texts.push_back(std::move(text));
        }
    }
    return texts;
}

// On the pool's thread. The payload: "" and addresses, or a code and a text.
void look_up(const std::string& name, Message& done) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;  // each address once
    hints.ai_flags = AI_ADDRCONFIG;
    addrinfo* list = nullptr;
    const int error = ::getaddrinfo(name.c_str(), nullptr, &hints, &list);
    PayloadWriter out = done.writer();
    if (error != 0) {
        wire::write_string(out, code_of(error));
        wire::write_string(out, ::gai_strerror(error));
    } else {
        wire::write_string(out, "");
        for (const std::string& text : texts_of(list)) wire::write_string(out, text);
        ::freeaddrinfo(list);
    }
    done.finish(out);
}

// Has the look-up done; false when the pool is full. Apart from what yields: C++ objects don't
// outlive a jump out of it.
bool submit(Vm& vm, Task& task, std::string_view name, std::int64_t limit_ms) {
    // A seeded run has one machine.
    std::string host(vm.kernel().seeded() ? "127.0.0.1" : name);
    return begin_blocking(vm, task, limit_ms,
                          [host = std::move(host)](Message& message) { look_up(host, message); });
}

// resolve(name, ms) -> "", address, ... | code, text | a failure for core.finish
int dns_resolve(lua_State* L) {
    const std::string_view name = check_text(L, kFunction, 1);
    const std::int64_t limit_ms = check_limit_ms(L, kFunction, 2);
    if (name.empty() || name.size() > kMaxName || name.find('\0') != std::string_view::npos) {
        lua_pushliteral(L, "invalid");
        lua_pushliteral(L, "a host name has 1 to 253 bytes");
        return 2;
    }
    Vm& vm = Vm::of(L);
    Task& task = vm.yieldable_task(L, kFunction);
    if (!submit(vm, task, name, limit_ms)) {
        lua_pushliteral(L, "overloaded");
        lua_pushliteral(L, "too many names are being looked up");
        return 2;
    }
    lua_settop(L, 0);  // room for the reply
    return lua_yield(L, 0);
}

}  // namespace

void push_dns_library(lua_State* L) {
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, dns_resolve);
    lua_setfield(L, -2, "resolve");
}

}  // namespace perilune

#include "perilune/status.h"

#include <cstdio>

namespace perilune {

const char* status_code_name(StatusCode code) {
    switch (code) {
        case StatusCode::ok: return "ok";
        case StatusCode::invalid: return "invalid";
        case StatusCode::not_found: return "not_found";
        case StatusCode::exists: return "exists";
        case StatusCode::dead: return "dead";
        case StatusCode::overloaded: return "overloaded";
        case StatusCode::timeout: return "timeout";
        case StatusCode::unavailable: return "unavailable";
        case StatusCode::unsupported: return "unsupported";
        case StatusCode::too_large: return "too_large";
        case StatusCode::internal: return "internal";
    }
    return "unknown";
}

Status Status::error(StatusCode code, const char* format, ...) {
    Status status;
    status.code_ = code;
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(status.text_, kTextSize, format, arguments);
    va_end(arguments);
    return status;
}

}  // namespace perilune

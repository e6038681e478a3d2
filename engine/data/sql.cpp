#include "data/sql.h"

#include <utility>

namespace perilune {

const char* sql_code_name(SqlCode code) {
    switch (code) {
        case SqlCode::ok: return "ok";
        case SqlCode::timeout: return "timeout";
        case SqlCode::unavailable: return "unavailable";
        case SqlCode::overloaded: return "overloaded";
        case SqlCode::exists: return "exists";
        case SqlCode::constraint: return "constraint";
        case SqlCode::conflict: return "conflict";
        case SqlCode::denied: return "denied";
        case SqlCode::invalid: return "invalid";
        case SqlCode::too_large: return "too_large";
        case SqlCode::error: return "error";
    }
    return "error";
}

SqlValues::SqlValues(std::span<const SqlValue> values) : values_(values.begin(), values.end()) {
    std::size_t total = 0;
    for (const SqlValue& value : values_) total += value.bytes.size();
    bytes_.resize(total +
                  1);  // for libraries a null pointer is NULL, also where there are no bytes
    char* place = bytes_.data();
    for (SqlValue& value : values_) {
        value.bytes.copy(place, value.bytes.size());
        value.bytes = std::string_view(place, value.bytes.size());
        place += value.bytes.size();
    }
}

std::string RowMeter::over_text() const {
    if (rows_ > limits_.rows) return "more than " + std::to_string(limits_.rows) + " rows";
    return "more than " + std::to_string(limits_.bytes) + " bytes";
}

SqlResult SqlResult::failure(SqlCode code, std::string message) {
    SqlResult result;
    result.code = code;
    result.message = std::move(message);
    return result;
}

}  // namespace perilune

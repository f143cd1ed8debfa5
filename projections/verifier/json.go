package verifier

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// AppendJSON appends the answer to a verify as the native surface writes it: the fields of a key that is not in reach, and
// times that are none, are null.
func (a Answer) AppendJSON(out []byte) []byte {
	out = append(out, `{"valid":`...)
	out = strconv.AppendBool(out, a.Valid())
	out = append(out, `,"code":"`...)
	out = append(out, a.Code...)
	r := a.Key
	if r == nil {
		return append(out, `","status":null,"key_id":null,"lineage_id":null,"generation":null,"organization_id":null,"project_id":null,"environment_id":null,"name":null,"scopes":null,"metadata":null,"expires_at":null,"grace_expires_at":null,"replaced_by_key_id":null,"retry_after_seconds":null,"rate_limit":null,"usage_limit":null}`+"\n"...)
	}
	out = append(out, `","status":"`...)
	out = append(out, a.Status...)
	out = append(out, `","key_id":"`...)
	out = r.key.AppendID(out, domain.PrefixKey)
	out = append(out, `","lineage_id":"`...)
	out = r.lineage.AppendID(out, domain.PrefixLineage)
	out = append(out, `","generation":`...)
	out = strconv.AppendUint(out, uint64(r.generation), 10)
	out = append(out, `,"organization_id":"`...)
	out = append(out, r.place.organization...)
	out = append(out, `","project_id":"`...)
	out = append(out, r.place.project...)
	out = append(out, `","environment_id":"`...)
	out = append(out, r.place.environment...)
	out = append(out, `","name":`...)
	out = appendText(out, r.name())
	out = append(out, `,"scopes":`...)
	out = append(out, r.grant.shown...)
	out = append(out, `,"metadata":`...)
	out = append(out, orNull(r.metadata())...)
	out = append(out, `,"expires_at":`...)
	out = appendTime(out, r.expiresAt)
	out = append(out, `,"grace_expires_at":`...)
	out = appendTime(out, r.graceExpiresAt)
	out = append(out, `,"replaced_by_key_id":`...)
	if m := r.more; m == nil || m.replacedBy == (domain.UUID{}) {
		out = append(out, "null"...)
	} else {
		out = append(m.replacedBy.AppendID(append(out, '"'), domain.PrefixKey), '"')
	}
	return append(a.appendLimits(out), "}\n"...)
}

// appendLimits appends what the key's limits say of the use.
func (a Answer) appendLimits(out []byte) []byte {
	limits := a.Key.limits()
	if limits == nil {
		return append(out, `,"retry_after_seconds":null,"rate_limit":null,"usage_limit":null`...)
	}
	out = appendCount(append(out, `,"retry_after_seconds":`...), a.RetryAfterSeconds())
	out = append(out, `,"rate_limit":`...)
	if rate := limits.Rate; rate.Requests == 0 {
		out = append(out, "null"...)
	} else {
		out = appendCount(append(out, `{"requests":`...), rate.Requests)
		out = appendCount(append(out, `,"window_seconds":`...), rate.WindowSeconds)
		out = append(appendCount(append(out, `,"remaining":`...), a.Spending.RateRemaining), '}')
	}
	out = append(out, `,"usage_limit":`...)
	if usage := limits.Usage; usage.Uses == 0 {
		return append(out, "null"...)
	} else {
		out = appendCount(append(out, `{"uses":`...), usage.Uses)
		out = append(append(append(out, `,"period":"`...), usage.Period...), '"')
		return append(appendCount(append(out, `,"remaining":`...), a.Spending.UsageRemaining), '}')
	}
}

// RetryAfterSeconds is when the next window of a rate limit begins that refused a use; -1 if none did.
func (a Answer) RetryAfterSeconds() int64 {
	if a.Code != projections.CodeRateLimited {
		return -1
	}
	return max(1, int64((a.Spending.RetryAfter+time.Second-1)/time.Second))
}

// appendCount appends a number; what is not known is negative, and null.
func appendCount(out []byte, n int64) []byte {
	if n < 0 {
		return append(out, "null"...)
	}
	return strconv.AppendInt(out, n, 10)
}

func orNull(text string) string {
	if text == "" {
		return "null"
	}
	return text
}

// appendText appends a string as package json does that escapes nothing for browsers.
func appendText(out []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return append(out, encoded(text)...)
		}
	}
	return append(append(append(out, '"'), text...), '"')
}

func encoded(v any) string {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil { // texts and lists of them always encode
		panic("verifier: encode: " + err.Error())
	}
	return string(bytes.TrimSuffix(buffer.Bytes(), []byte("\n")))
}

func appendTime(out []byte, micros int64) []byte {
	if micros == 0 {
		return append(out, "null"...)
	}
	return append(time.UnixMicro(micros).UTC().AppendFormat(append(out, '"'), time.RFC3339Nano), '"')
}

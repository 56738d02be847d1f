package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"

	"github.com/usernet/usernet/cnm/fault"
)

const typeJSON = "application/json"

// readBody reads a request's JSON into v by Docker's rules: fields it does not know are ignored, an empty body
// leaves v as it is, and the content type must be right when there is a body. v is not to be used after an error.
func readBody(r *http.Request, v any) error {
	if r.Body == nil || r.ContentLength == 0 {
		if r.Header.Get("Content-Type") == "" {
			return nil
		}
		return checkType(r)
	}
	if err := checkType(r); err != nil {
		return err
	}
	dec := json.NewDecoder(r.Body)
	err := dec.Decode(v)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if !tooLong(err) {
			return fault.New(fault.Invalid, "unexpected content after JSON")
		}
	}
	switch {
	case tooLong(err):
		return &codeError{http.StatusRequestEntityTooLarge, fmt.Sprintf("read body: %v", err)}
	case errors.Is(err, io.EOF):
		return fault.New(fault.Invalid, "invalid JSON: got EOF while reading request body")
	}
	return fault.New(fault.Invalid, "invalid JSON: %w", err)
}

func tooLong(err error) bool {
	_, ok := errors.AsType[*http.MaxBytesError](err)
	return ok
}

func checkType(r *http.Request) error {
	given := r.Header.Get("Content-Type")
	t, _, err := mime.ParseMediaType(given)
	if err != nil && given != "" {
		return fault.New(fault.Invalid, "malformed Content-Type header (%s): %w", given, err)
	}
	if t != typeJSON {
		return fault.New(fault.Invalid, "unsupported Content-Type header (%s): must be '%s'", given, typeJSON)
	}
	return nil
}

// flag reads a boolean of the query as Docker does: 0, false, no, none and nothing are false, the rest is true.
func flag(r *http.Request, key string) bool {
	switch r.URL.Query().Get(key) {
	case "", "0", "false", "no", "none":
		return false
	}
	return true
}

// number reads a number of the query; ok says whether there is one.
func number(r *http.Request, key string) (n int, ok bool, err error) {
	s := r.URL.Query().Get(key)
	if s == "" {
		return 0, false, nil
	}
	if n, err = strconv.Atoi(s); err != nil {
		return 0, false, fault.New(fault.Invalid, "invalid value for %s: %s", key, s)
	}
	return n, true, nil
}

package localhttp

import (
	"encoding/json"
	"net/http"
)

// Failure is the body of an answer that refuses. Docker's has the same shape.
type Failure struct {
	Message string `json:"message"`
}

// Answer writes body as JSON. A client that has gone needs no answer, so there is no error.
func Answer(w http.ResponseWriter, code int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"message":"encode answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n'))
}

// Refuse answers with a Failure.
func Refuse(w http.ResponseWriter, code int, why string) { Answer(w, code, Failure{Message: why}) }

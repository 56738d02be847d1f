package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"text/template"
)

// Output of lists and of inspect by --format, as Docker's commands have it:
//
//	(empty), table         the command's own table
//	table TEMPLATE         a table of these columns, its head made by executing TEMPLATE on their titles
//	json                   one object a line
//	raw                    the command's own lines of "key: value"
//	TEMPLATE               executed for each element
//
// Elements are structs of strings, so that a template, the head of a table and JSON see the same fields.

// templateFuncs are the functions of Docker's templates beside those of text/template.
var templateFuncs = template.FuncMap{
	"json":     toJSON,
	"split":    strings.Split,
	"join":     strings.Join,
	"title":    title,
	"lower":    strings.ToLower,
	"upper":    strings.ToUpper,
	"pad":      pad,
	"truncate": truncate,
}

// headFuncs are the same for the head of a table, where every value is a title that stays as it is.
var headFuncs = template.FuncMap{
	"json":     func(s string) string { return s },
	"split":    func(s, _ string) string { return s },
	"join":     func(s, _ string) string { return s },
	"title":    func(s string) string { return s },
	"lower":    func(s string) string { return s },
	"upper":    func(s string) string { return s },
	"pad":      func(s string, _, _ int) string { return s },
	"truncate": func(s string, _ int) string { return s },
}

// toJSON encodes without the escapes that are for HTML.
func toJSON(v any) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// title makes the first letter of each word upper case.
func title(s string) string {
	begin := true
	return strings.Map(func(r rune) rune {
		out := r
		if begin {
			out = []rune(strings.ToUpper(string(r)))[0]
		}
		begin = r == ' ' || r == '\t' || r == '-' || r == '_'
		return out
	}, s)
}

// maxPad keeps a slip of the keyboard in a template from filling the memory.
const maxPad = 4096

func pad(s string, before, after int) (string, error) {
	if before < 0 || after < 0 || before > maxPad || after > maxPad {
		return "", fmt.Errorf("want 0 to %d blanks", maxPad)
	}
	if s == "" {
		return s, nil
	}
	return strings.Repeat(" ", before) + s + strings.Repeat(" ", after), nil
}

// truncate keeps the first n bytes of s.
func truncate(s string, n int) (string, error) {
	if n < 0 {
		return "", fmt.Errorf("a string has no %d bytes", n)
	}
	return s[:min(n, len(s))], nil
}

func parseTemplate(text string, funcs template.FuncMap) (*template.Template, error) {
	t, err := template.New("").Funcs(funcs).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("template parsing error: %w", err)
	}
	return t, nil
}

// titles are the heads of columns, by the name of the field.
type titles map[string]string

// Label is the head of a column {{.Label "name"}}: the last word of name.
func (titles) Label(name string) string {
	parts := strings.Split(name, ".")
	return strings.NewReplacer("-", " ", "_", " ").Replace(parts[len(parts)-1])
}

// listFormat is how one kind of list is shown.
type listFormat struct {
	titles       titles
	table, quiet string // templates; table has no "table" before it
	raw, rawID   string // rawID is raw with --quiet
}

// template is what --format and --quiet come to: a template and whether it is a table's.
func (l listFormat) template(format string, quiet bool) (text string, isTable bool) {
	rest, isTable := strings.CutPrefix(format, "table")
	switch {
	case quiet && (format == "" || format == "table"):
		return l.quiet, false
	case format == "" || format == "table":
		return l.table, true
	case format == "raw" && quiet:
		return l.rawID, false
	case format == "raw":
		return l.raw, false
	case format == "json":
		return "{{json .}}", false
	}
	text = strings.Trim(format, " ")
	if isTable {
		text = strings.Trim(rest, " ")
	}
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text), isTable
}

// formatList shows rows as --format and --quiet ask for.
func formatList[T any](l listFormat, format string, quiet bool, rows []T) (string, error) {
	text, isTable := l.template(format, quiet)
	t, err := parseTemplate(text, templateFuncs)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if isTable {
		head, err := parseTemplate(text, headFuncs)
		if err != nil {
			return "", err
		}
		if err := execute(&b, head, l.titles); err != nil {
			return "", err
		}
	}
	for _, r := range rows {
		if err := execute(&b, t, r); err != nil {
			return "", err
		}
	}
	if !isTable {
		return b.String(), nil
	}
	return alignTable(b.String())
}

func execute(b *strings.Builder, t *template.Template, data any) error {
	if err := t.Execute(b, data); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	b.WriteByte('\n')
	return nil
}

// alignTable aligns columns that tabs separate, at least ten wide and three apart, as Docker's tables are. No
// line ends in blanks.
func alignTable(s string) (string, error) {
	const minWidth, gap = 10, 3
	var b strings.Builder
	w := tabwriter.NewWriter(&b, minWidth, 1, gap, ' ', 0)
	if _, err := w.Write([]byte(s)); err != nil {
		return "", err
	}
	if err := w.Flush(); err != nil {
		return "", err
	}
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n"), nil
}

// element is one thing to inspect: as a value with Go's names, and as the JSON it came as.
type element struct {
	typed any
	raw   json.RawMessage
}

// formatElements is what inspect prints: an array, or a template executed for each element. A template may use
// Go's names (.ID) or those of the JSON (.Id), as with Docker.
func formatElements(format string, elements []element) (string, error) {
	raw := make([]json.RawMessage, 0, len(elements))
	for _, e := range elements {
		raw = append(raw, e.raw)
	}
	switch format {
	case "":
		all, err := json.Marshal(raw)
		if err != nil {
			return "", err
		}
		var b bytes.Buffer
		if err := json.Indent(&b, all, "", "    "); err != nil {
			return "", err
		}
		return b.String() + "\n", nil
	case "json":
		s, err := toJSON(raw)
		return s + "\n", err
	}
	t, err := parseTemplate(format, templateFuncs)
	if err != nil {
		return "", err
	}
	if len(elements) == 0 {
		return "\n", nil
	}
	var b strings.Builder
	for _, e := range elements {
		s, err := executeElement(t, e)
		if err != nil {
			return "", err
		}
		b.WriteString(s + "\n")
	}
	return b.String(), nil
}

func executeElement(t *template.Template, e element) (string, error) {
	var b strings.Builder
	err := t.Execute(&b, e.typed)
	if err == nil {
		return b.String(), nil
	}
	dec := json.NewDecoder(bytes.NewReader(e.raw))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) == nil {
		b.Reset()
		rawTemplate, cloneErr := t.Clone()
		if cloneErr != nil {
			return "", cloneErr
		}
		if rawTemplate.Option("missingkey=error").Execute(&b, v) == nil {
			return b.String(), nil
		}
	}
	return "", fmt.Errorf("template parsing error: %w", err)
}

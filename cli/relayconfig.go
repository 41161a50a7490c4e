package cli

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/relay"
)

// relayTable is the key of the configuration file whose tables are relays.
const relayTable = "relay"

// relayKeys are the settings of every relay. The others are those of its broker.
var relayKeys = []string{"name", "url", "password-file", "categories", "window"}

// relays returns the relays of the program, and those of the configuration file. The
// error lists everything that is wrong.
func (p *program) relays() ([]node.Relay, error) {
	list := slices.Clone(p.options.Relays)
	tables, err := p.brokerTables(relayTable)
	errs := []error{err}
	for _, t := range tables {
		r, err := p.relay(t)
		if err != nil {
			errs = append(errs, usagef("configuration file %s: relay %q: %w", p.config, t["name"], err))
			continue
		}
		list = append(list, r)
	}
	return list, errors.Join(errs...)
}

// brokerTables reads the tables of a name, such as [[relay]], of the configuration file.
func (p *program) brokerTables(name string) ([]map[string]any, error) {
	if p.config == "" {
		return nil, nil
	}
	raw, err := readSecret(p.config)
	if err != nil {
		return nil, err
	}
	var content map[string]any
	if _, err := toml.Decode(string(raw), &content); err != nil {
		return nil, err // prepare has reported it
	}
	found, ok := content[name]
	if !ok {
		return nil, nil
	}
	tables, ok := found.([]map[string]any)
	if !ok {
		return nil, usagef("configuration file %s: %s is not a list of tables: begin each %s with a line [[%s]]", p.config, name, name, name)
	}
	return tables, nil
}

// relay makes a relay from its table.
func (p *program) relay(t map[string]any) (r node.Relay, err error) {
	texts, categories, window, err := relaySettings(t, relay.MaxWindow)
	if err != nil {
		return r, err
	}
	r = node.Relay{Name: texts["name"], Categories: categories, Window: window}
	s, broker, err := p.brokerSettings(texts)
	if err != nil {
		return r, err
	}
	if err := ownSettings(&s, texts, relayKeys, broker.Keys); err != nil {
		return r, err
	}
	r.Where, r.New, err = broker.Configure(s)
	return r, err
}

// brokerSettings reads the settings with which a broker is reached.
func (p *program) brokerSettings(texts map[string]string) (s relay.Settings, broker relay.Broker, err error) {
	u, err := url.Parse(texts["url"])
	if err != nil || texts["url"] == "" {
		return s, broker, errors.New("url is missing, or not a URL: write where the broker is, such as amqp://USER@HOST/")
	}
	if broker, err = p.broker(u.Scheme); err != nil {
		return s, broker, err
	}
	s = relay.Settings{Name: texts["name"], URL: u, Own: map[string]string{}}
	if file := texts["password-file"]; file != "" {
		secret, err := readSecret(file)
		if err != nil {
			return s, broker, fmt.Errorf("password-file: %w", err)
		}
		s.Password = strings.TrimSpace(string(secret))
	}
	return s, broker, nil
}

// ownSettings sets the settings of a broker's own keys, and refuses unknown keys.
func ownSettings(s *relay.Settings, texts map[string]string, common, own []string) error {
	for _, key := range sortedKeys(texts) {
		switch {
		case slices.Contains(own, key):
			s.Own[key] = texts[key]
		case !slices.Contains(common, key):
			return fmt.Errorf("unknown key %q%s", key, suggestion(key, slices.Concat(common, own)))
		}
	}
	return nil
}

// relaySettings sorts the settings of a table by their kinds.
func relaySettings(t map[string]any, maxWindow int64) (texts map[string]string, categories []string, window int, err error) {
	texts = map[string]string{}
	for _, key := range sortedKeys(t) {
		switch v := t[key].(type) {
		case string:
			if key == "categories" || key == "window" {
				return nil, nil, 0, fmt.Errorf("%s is text: categories is a list of strings, and window a number", key)
			}
			texts[key] = v
		case int64:
			if key != "window" || v < 1 || v > maxWindow {
				return nil, nil, 0, fmt.Errorf("%s is %d: only window is a number, from 1 to %d", key, v, maxWindow)
			}
			window = int(v)
		case []any:
			if key != "categories" {
				return nil, nil, 0, fmt.Errorf("%s is a list: only categories is one", key)
			}
			for _, one := range v {
				text, ok := one.(string)
				if !ok {
					return nil, nil, 0, errors.New("categories must be a list of strings only, the aggregate types")
				}
				categories = append(categories, text)
			}
		default:
			return nil, nil, 0, fmt.Errorf("%s must be text, a number or a list of strings", key)
		}
	}
	return texts, categories, window, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// broker returns the broker of a URL's scheme.
func (p *program) broker(scheme string) (relay.Broker, error) {
	var known []string
	for _, b := range p.options.Brokers {
		if slices.Contains(b.Schemes, scheme) {
			return b, nil
		}
		known = append(known, b.Schemes...)
	}
	if len(known) == 0 {
		return relay.Broker{}, errors.New("this program has no broker: register one in cli.Options.Brokers")
	}
	return relay.Broker{}, fmt.Errorf("the URL begins with %q: this program has brokers for %s", scheme+"://", strings.Join(known, "://, ")+"://")
}

// printRelays writes the relays and the intakes of the configuration file as it has them.
func (p *program) printRelays(out io.Writer) error {
	return errors.Join(p.printTables(out, relayTable), p.printTables(out, intakeTable))
}

func (p *program) printTables(out io.Writer, name string) error {
	tables, err := p.brokerTables(name)
	errs := []error{err}
	for _, t := range tables {
		_, err := fmt.Fprintf(out, "\n[[%s]] # file\n", name)
		errs = append(errs, err)
		for _, key := range sortedKeys(t) {
			value := fmt.Sprintf("%v", t[key])
			switch v := t[key].(type) {
			case string:
				value = fmt.Sprintf("%q", redacted(v))
			case []any:
				items := make([]string, len(v))
				for i, one := range v {
					items[i] = fmt.Sprintf("%q", fmt.Sprint(one))
				}
				value = "[" + strings.Join(items, ", ") + "]"
			}
			_, err := fmt.Fprintf(out, "%s = %s\n", key, value)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

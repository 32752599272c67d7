# `hf`: who one is, Spaces, collections, webhooks, and what this Hub does not have.
expect() { said=$(cat); [[ $said == *"$1"* ]] || { echo "not in the output: $1" >&2; exit 1; }; }
refused() { if "$@" >out 2>&1; then echo "was not refused: $*" >&2; exit 1; fi; cat out; }

# --- auth
hf auth whoami | expect "hubkit"
hf auth login --token "$HF_TOKEN" >/dev/null
hf auth list | expect "owner"
test "$(hf auth token -q 2>/dev/null | tail -1)" = "$HF_TOKEN"
(
  unset HF_TOKEN
  hf auth whoami | expect "hubkit"   # by the stored token
  hf auth logout >/dev/null
  refused hf auth whoami | expect "ogged in"
)
refused env HF_TOKEN=hf_wrong hf auth whoami | expect "nvalid"

# --- Spaces
hf repos create my-app --type space --sdk static -e THEME=dark --secrets KEY=value
hf spaces variables list hubkit/my-app --json | expect '"THEME"'
hf spaces secrets list hubkit/my-app --json | expect '"KEY"'
hf spaces secrets delete hubkit/my-app KEY -y
hf spaces variables add hubkit/my-app -e DEBUG=1
hf spaces info hubkit/my-app --json | expect "hubkit/my-app"
hf spaces hardware | expect "cpu-basic"
hf repos delete my-app --type space -y

# --- collections and webhooks
hf repos create one
slug=$(hf collections create "Best" --description "What is good" -q)
hf collections add-item "$slug" hubkit/one model --note "the first"
hf collections info "$slug" --json | expect "hubkit/one"
hf collections update "$slug" --title "Better"
hf collections list --owner hubkit --json | expect "Better"
hf collections delete "$slug"
hook=$(hf webhooks create --watch model:hubkit/one --url http://127.0.0.1:9/ --secret s -q)
hf webhooks disable "$hook" >/dev/null
hf webhooks list --json | expect "$hook"
hf webhooks delete "$hook" -y

# --- what this Hub does not have says so
refused hf buckets create some-bucket | expect "501"
refused hf jobs ps | expect "501"

/** The formatting bar: one tab stop, arrow keys within it. */
import type { Editor } from '@tiptap/core'

interface Tool {
  id: string
  label: string
  keys?: string
  icon: string
  run: (editor: Editor) => void
  active?: (editor: Editor) => boolean
  enabled?: (editor: Editor) => boolean
}

function editLink(editor: Editor): void {
  const current = editor.getAttributes('link')['href'] as string | undefined
  const href = window.prompt('Link address (empty removes the link)', current ?? 'https://')
  if (href === null) return
  const chain = editor.chain().focus().extendMarkRange('link')
  if (href.trim() === '') chain.unsetLink().run()
  else chain.setLink({ href: href.trim() }).run()
}

const GROUPS: Tool[][] = [
  [
    { id: 'h1', label: 'Title', keys: 'Ctrl+Alt+1', icon: 'H1', run: (e) => e.chain().focus().toggleHeading({ level: 1 }).run(), active: (e) => e.isActive('heading', { level: 1 }) },
    { id: 'h2', label: 'Heading', keys: 'Ctrl+Alt+2', icon: 'H2', run: (e) => e.chain().focus().toggleHeading({ level: 2 }).run(), active: (e) => e.isActive('heading', { level: 2 }) },
    { id: 'h3', label: 'Subheading', keys: 'Ctrl+Alt+3', icon: 'H3', run: (e) => e.chain().focus().toggleHeading({ level: 3 }).run(), active: (e) => e.isActive('heading', { level: 3 }) },
  ],
  [
    { id: 'bold', label: 'Bold', keys: 'Ctrl+B', icon: 'M6 4h5.5a3 3 0 0 1 0 6H6zM6 10h6.2a3 3 0 0 1 0 6H6z', run: (e) => e.chain().focus().toggleBold().run(), active: (e) => e.isActive('bold') },
    { id: 'italic', label: 'Italic', keys: 'Ctrl+I', icon: 'M8 4h6M6 16h6M11.5 4l-3 12', run: (e) => e.chain().focus().toggleItalic().run(), active: (e) => e.isActive('italic') },
    { id: 'underline', label: 'Underline', keys: 'Ctrl+U', icon: 'M6 3v6a4 4 0 0 0 8 0V3M5 17h10', run: (e) => e.chain().focus().toggleUnderline().run(), active: (e) => e.isActive('underline') },
    { id: 'strike', label: 'Strikethrough', keys: 'Ctrl+Shift+S', icon: 'M4 10h12M13.5 6.5C13 5 11.800 4 10 4 8 4 6.500 5 6.500 6.700c0 1 .4 1.700 1.200 2.200M6.500 13.500C7 15 8.200 16 10 16c2 0 3.500-1 3.500-2.700 0-.5-.1-1-.4-1.300', run: (e) => e.chain().focus().toggleStrike().run(), active: (e) => e.isActive('strike') },
    { id: 'code', label: 'Code', keys: 'Ctrl+E', icon: 'M7 6l-4 4 4 4M13 6l4 4-4 4', run: (e) => e.chain().focus().toggleCode().run(), active: (e) => e.isActive('code') },
    { id: 'link', label: 'Link', icon: 'M8.500 11.500l3-3M9 6l1.500-1.500a3.200 3.200 0 0 1 4.500 4.500L13.500 10.500M11 14l-1.500 1.500a3.200 3.200 0 0 1-4.500-4.500L6.500 9.500', run: editLink, active: (e) => e.isActive('link') },
  ],
  [
    { id: 'bullets', label: 'Bulleted list', keys: 'Ctrl+Shift+8', icon: 'M8 5h9M8 10h9M8 15h9M3.500 5h.01M3.500 10h.01M3.500 15h.01', run: (e) => e.chain().focus().toggleBulletList().run(), active: (e) => e.isActive('bulletList') },
    { id: 'numbers', label: 'Numbered list', keys: 'Ctrl+Shift+7', icon: 'M8.500 5H17M8.500 10H17M8.500 15H17M3 4l1.200-.8V7.500M3 12.800c.2-.8 2.300-.9 2.300.3 0 .9-2.300 1.500-2.300 3h2.400', run: (e) => e.chain().focus().toggleOrderedList().run(), active: (e) => e.isActive('orderedList') },
    { id: 'tasks', label: 'Task list', keys: 'Ctrl+Shift+9', icon: 'M10 5h7M10 14h7M3 4.500l1.700 1.700L8 3M3 13.500l1.700 1.700L8 12', run: (e) => e.chain().focus().toggleTaskList().run(), active: (e) => e.isActive('taskList') },
    { id: 'quote', label: 'Quote', keys: 'Ctrl+Shift+B', icon: 'M4 4v12M8 6h9M8 10h9M8 14h6', run: (e) => e.chain().focus().toggleBlockquote().run(), active: (e) => e.isActive('blockquote') },
    { id: 'codeblock', label: 'Code block', keys: 'Ctrl+Alt+C', icon: 'M3 4h14v12H3zM8 8l-2 2 2 2M12 8l2 2-2 2', run: (e) => e.chain().focus().toggleCodeBlock().run(), active: (e) => e.isActive('codeBlock') },
    { id: 'rule', label: 'Divider', icon: 'M3 10h14', run: (e) => e.chain().focus().setHorizontalRule().run() },
  ],
  [
    { id: 'undo', label: 'Undo', keys: 'Ctrl+Z', icon: 'M4 8h8a4 4 0 0 1 0 8H8M4 8l3.500-3.500M4 8l3.500 3.500', run: (e) => e.chain().focus().undo().run(), enabled: (e) => e.can().undo() },
    { id: 'redo', label: 'Redo', keys: 'Ctrl+Shift+Z', icon: 'M16 8H8a4 4 0 0 0 0 8h4M16 8l-3.500-3.500M16 8l-3.500 3.500', run: (e) => e.chain().focus().redo().run(), enabled: (e) => e.can().redo() },
  ],
]

const SVG = 'http://www.w3.org/2000/svg'

function icon(tool: Tool): Node {
  if (!tool.icon.startsWith('M')) {
    const text = document.createElement('span')
    text.textContent = tool.icon
    return text
  }
  const svg = document.createElementNS(SVG, 'svg')
  svg.setAttribute('viewBox', '0 0 20 20')
  svg.setAttribute('aria-hidden', 'true')
  const path = document.createElementNS(SVG, 'path')
  path.setAttribute('d', tool.icon)
  svg.append(path)
  return svg
}

/** Builds the bar once; `attach` points it at the editor of the room just opened. */
export function createToolbar(bar: HTMLElement): (editor: Editor) => void {
  let current: Editor | null = null
  const buttons: [Tool, HTMLButtonElement][] = []
  for (const group of GROUPS) {
    const holder = document.createElement('div')
    holder.className = 'tools'
    for (const tool of group) {
      const button = document.createElement('button')
      button.type = 'button'
      button.tabIndex = buttons.length === 0 ? 0 : -1
      button.dataset['testid'] = `tool-${tool.id}`
      button.title = tool.keys ? `${tool.label} (${tool.keys})` : tool.label
      button.setAttribute('aria-label', tool.label)
      if (tool.active) button.setAttribute('aria-pressed', 'false')
      button.append(icon(tool))
      // Keeps the selection, and on a phone the keyboard, where they are.
      button.addEventListener('pointerdown', (event) => event.preventDefault())
      button.addEventListener('click', () => {
        if (current && button.getAttribute('aria-disabled') !== 'true') tool.run(current)
      })
      buttons.push([tool, button])
      holder.append(button)
    }
    bar.append(holder)
  }
  bar.addEventListener('keydown', (event) => {
    const at = buttons.findIndex(([, button]) => button === document.activeElement)
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (at < 0 || step === undefined) return
    event.preventDefault()
    const next = buttons[(at + step + buttons.length) % buttons.length]![1]
    buttons[at]![1].tabIndex = -1
    next.tabIndex = 0
    next.focus()
  })
  const refresh = (): void => {
    if (!current || current.isDestroyed) return
    for (const [tool, button] of buttons) {
      if (tool.active) button.setAttribute('aria-pressed', String(tool.active(current)))
      if (tool.enabled) button.setAttribute('aria-disabled', String(!tool.enabled(current)))
    }
  }
  return (editor) => {
    current = editor
    editor.on('transaction', refresh)
    refresh()
  }
}
